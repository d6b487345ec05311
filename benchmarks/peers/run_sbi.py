"""sbi: NPE with a neural spline flow, FMPE and NPSE, all with their defaults and their own stopping rules."""

from __future__ import annotations

import numpy as np
import torch
from job import Job, Outcome, Watch
from sbi.inference import FMPE, NPE, NPSE

# The samplers of each method, the default one first.
METHODS = {
    "sbi-npe": (NPE, {"density_estimator": "nsf"}, ("flow",)),
    "sbi-fmpe": (FMPE, {}, ("ode",)),
    "sbi-npse": (NPSE, {}, ("sde", "ode")),
}
RULES = {
    "sbi-npe": "20 epochs without a better validation loss",
    "sbi-fmpe": "20 epochs in a row with a validation loss over 2 standard deviations above the best",
    "sbi-npse": "20 epochs in a row with a validation loss over 2 standard deviations above the best",
}


def main() -> None:
    job = Job.from_command_line()
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    kind, options, samplers = METHODS[job.method]

    class Watched(kind):
        """Stops at the limit as it does at its own end: with the best weights so far."""

        def _converged(self, epoch: int, stop_after_epochs: int) -> bool:
            converged = super()._converged(epoch, stop_after_epochs)
            best = self._best_model_state_dict
            if converged or best is None or not watch.over(epoch, lambda: best):
                return converged
            self._neural_net.load_state_dict(best)
            return True

    trainer = Watched(show_progress_bars=False, **options)
    trainer.append_simulations(torch.from_numpy(job.x), torch.from_numpy(job.y))
    watch = Watch(job)
    estimator = trainer.train()
    seconds = watch.clock.seconds()
    epochs = trainer.summary["epochs_trained"][-1]
    outcome = Outcome(
        job,
        {
            "what": f"{kind.__name__} with its defaults" + (f", {options}" if options else ""),
            "rule": RULES[job.method],
            "weights": sum(p.numel() for p in estimator.parameters()),
        },
        ("sbi", "torch", "numpy", "zuko", "nflows"),
        training=seconds | {"epochs": epochs, "updates": epochs * (9000 // 200), "cut": watch.cut},
    )
    rows = counted(estimator) if samplers != ("flow",) else []
    for sampler in samplers:
        rows.clear()
        outcome.draw(sampler, lambda s=sampler: draw(trainer, estimator, s, job))
        if sampler != "flow":
            outcome.sampling[sampler]["evaluations"] = sum(rows) / (len(job.at) * job.draws)
    fastest = samplers[-1]
    for epoch, at, weights in watch.kept:
        estimator.load_state_dict(weights)
        outcome.checkpoint(epoch, at, fastest, lambda: draw(trainer, estimator, fastest, job))
    outcome.write()


def counted(estimator: torch.nn.Module) -> list[int]:
    """A list that gets the number of rows of every evaluation of the network from now on, also of its copies."""
    rows: list[int] = []
    estimator.net.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    return rows


def draw(trainer: NPE | FMPE | NPSE, estimator: torch.nn.Module, sampler: str, job: Job) -> np.ndarray:
    """Samples for each y in turn, in batches as large as sbi makes them by default."""
    options = {} if sampler == "flow" else {"sample_with": sampler}
    posterior = trainer.build_posterior(estimator, **options)
    rows = [posterior.sample((job.draws,), x=y[None], show_progress_bars=False) for y in torch.from_numpy(job.at)]
    return torch.stack(rows)[..., 0].numpy()


if __name__ == "__main__":
    main()
