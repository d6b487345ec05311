"""Networks in plain PyTorch, and the score model that wraps one."""
