"""BayesFlow: flow matching and score-based diffusion with their defaults, 100 epochs of batches of 32."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"

import bayesflow
import keras
import numpy as np
from job import Job, Outcome, Watch

METHODS = {
    "bayesflow-fm": (bayesflow.networks.FlowMatching, "ode"),
    "bayesflow-diffusion": (bayesflow.networks.DiffusionModel, "sde"),
}


class Limit(keras.callbacks.Callback):
    """Ends the training at the limit. No checkpoints: its learning rate falls to zero at the end."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last = epoch + 1 == self.params["epochs"]
        if not last and self.watch.over(epoch + 1, lambda: None):
            self.model.stop_training = True


def main() -> None:
    job = Job.from_command_line()
    keras.utils.set_random_seed(job.seed)
    kind, sampler = METHODS[job.method]
    workflow = bayesflow.BasicWorkflow(inference_network=kind(), inference_variables=["x"], inference_conditions=["y"])
    watch = Watch(job)
    history = workflow.fit_offline({"x": job.x, "y": job.y}, callbacks=[Limit(watch)], verbose=0)
    seconds = watch.clock.seconds()
    epochs = len(history.history["loss"])
    outcome = Outcome(
        job,
        {
            "what": f"{kind.__name__} with its defaults",
            "rule": "its default of 100 epochs, the rate falling to zero",
            "weights": workflow.approximator.count_params(),
        },
        ("bayesflow", "keras", "jax", "jaxlib", "numpy"),
        training=seconds | {"epochs": epochs, "updates": epochs * -(-len(job.x) // 32), "cut": watch.cut},
    )

    def draw() -> np.ndarray:
        return workflow.sample(num_samples=job.draws, conditions={"y": job.at})["x"][..., 0]

    outcome.draw(sampler, draw)
    outcome.write()


if __name__ == "__main__":
    main()
