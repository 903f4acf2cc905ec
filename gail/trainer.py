"""Training: behaviour cloning, then rollouts, discriminator and PPO in turn; one folder a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gail import rewards
from gail.backends import check_backend, renew
from gail.config import TrainConfig, config_to_dict
from gail.demos import DemoSampler
from gail.discriminator import Accuracy, Samples, accuracy, discriminator_loss
from gail.networks import Networks
from gail.ppo import AdvantageScale, cloning_loss, discounted_returns, update
from gail.rollout import Rollout, collect
from gail.run import CHECKPOINT, RunError, check_fit, choose_device, read_checkpoint
from gail.worlds import WorldStream
from pipeline.store import DemoStore
from sim.env import Backend

_NORMALISER_SAMPLES = 8192


@dataclass
class RewardScale:
    """Running root mean square of discounted returns, which rewards are divided by. The mean is left in."""

    square: float = 1.0
    count: float = 0.0

    def __call__(self, reward: Tensor, alive: Tensor, gamma: float) -> Tensor:
        """Scaled rewards [H, N], after counting these in."""
        returns = discounted_returns(reward * alive, gamma)[alive].double()
        self.count += len(returns)
        self.square += (returns.square().mean().item() - self.square) * len(returns) / max(self.count, 1)
        return reward / float(max(self.square, 1e-8) ** 0.5)


@dataclass
class Progress:
    """How far a run is."""

    iteration: int = 0
    timesteps: int = 0
    seconds: float = 0.0
    cloned: int = 0
    """Behaviour-cloning steps done."""


class Trainer:
    """A run in its folder.

    Args:
        config: what to do.
        store_path: the demo store.
        folder: where config, metrics and checkpoints go; created.
        resume: go on from the folder's checkpoint.
        report: called after each cloning report and each rollout with the run's progress and its newest metrics.

    Raises:
        RunError, ConfigError, StoreError: each one sentence.
    """

    def __init__(
        self,
        config: TrainConfig,
        store_path: str | Path,
        folder: str | Path,
        resume: bool = False,
        report: Callable[[Progress, dict[str, float]], None] = lambda progress, metrics: None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.device = choose_device(config.device)
        self.store = DemoStore(store_path, config.data.agents)
        check_fit(config, self.store)
        check_backend(config, self.store)
        self.progress = Progress()
        self.reward_scale = RewardScale()
        self.advantage_scale = AdvantageScale()
        self._report = report
        self._drawn = 0
        torch.manual_seed(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.networks = Networks.create(config, self.store.space, self.device)
        checkpoint = self._begin(resume)
        if checkpoint:
            self._restore(checkpoint)
        self.sampler = DemoSampler(
            self.store,
            config.observation,
            config.sim,
            self.device,
            config.data,
            config.seed,
            self._drawn,
        )
        if not checkpoint:
            self.networks.fit_normalisers(self.sampler.sample(_NORMALISER_SAMPLES))
        self.stream = WorldStream(
            self.store,
            config.sim,
            config.observation,
            config.worlds.num_worlds,
            self.device,
            config.seed,
            start=self.progress.iteration // config.worlds.rollouts_per_batch,
            split=config.data.split,
        )
        self._describe()
        self._env: Backend | None = None
        self._writer = SummaryWriter(self.folder / "tensorboard")

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end, or until ``stop`` says so between two steps; a checkpoint is left however it ends."""
        try:
            self._clone(stop)
            while self.progress.timesteps < self.config.total_timesteps and not stop():
                self._iterate()
                if self.progress.iteration % self.config.checkpoint_every == 0:
                    self.save()
        finally:
            self.save()
            self.close()

    def close(self) -> None:
        """Stop background threads and close files."""
        self.sampler.close()
        self.stream.close()
        self._writer.close()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "networks": self.networks.state_dict(),
            "progress": vars(self.progress),
            "reward_scale": vars(self.reward_scale),
            "advantage_scale": vars(self.advantage_scale),
            "drawn": self.sampler.drawn,
            "generator": self._generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        temporary = self.folder / f".{CHECKPOINT}"
        torch.save(state, temporary)
        temporary.replace(self.folder / CHECKPOINT)

    def _begin(self, resume: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from, if any."""
        file = self.folder / CHECKPOINT
        if file.exists() and not resume:
            raise RunError(f"run {self.folder}: there is a run already; add --resume to go on, or name another folder")
        if resume and not file.exists():
            raise RunError(f"run {self.folder}: there is no checkpoint to go on from; leave --resume out to begin")
        if self.store.location in map(str, [self.folder.resolve(), *self.folder.resolve().parents]):
            raise RunError(f"run {self.folder}: it would lie inside the store; name another folder")
        if not resume:
            return None
        before = json.loads((self.folder / "environment.json").read_text())["store"]
        if before != self.store.location:
            raise RunError(
                f"run {self.folder}: it learned from {before}, not {self.store.path}; resume with that store"
            )
        return read_checkpoint(self.folder, self.device)

    def _describe(self) -> None:
        """Write down what the run is; only once nothing that it builds on can be amiss."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(self.config), sort_keys=False))
            spec = {"action_space": self.store.space.to_json(), "store": self.store.location}
            (self.folder / "environment.json").write_text(json.dumps(spec, indent=1))
            self._keep_metrics()
        except OSError as error:
            raise RunError(f"run {self.folder}: cannot be written ({error.strerror}); choose another folder") from error

    def _keep_metrics(self) -> None:
        """Start the metrics file, or take out what a killed run measured after the checkpoint that it goes on from."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith("\n")]

        def counts(text: str) -> bool:
            try:
                line = json.loads(text)
            except ValueError:  # a killed run may have written half a line
                return False
            if "bc/loss" in line:
                return bool(line["step"] <= self.progress.cloned)
            return bool(line["iteration"] <= self.progress.iteration)

        file.write_text("".join(line for line in whole if counts(line)))

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.networks.load_state_dict(state["networks"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunError(
                f"run {self.folder}: its checkpoint is of other networks; resume with the configuration it began with"
            ) from error
        self.networks.set_rates(self.config)
        try:
            self.progress = Progress(**state["progress"])
            self.reward_scale = RewardScale(**state["reward_scale"])
            self.advantage_scale = AdvantageScale(**state["advantage_scale"])
            self._drawn = int(state["drawn"])
            self._generator.set_state(state["generator"].cpu())
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"run {self.folder}: its checkpoint is of another version; begin a new run") from error
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])

    def _clone(self, stop: Callable[[], bool]) -> None:
        """Behaviour cloning on expert batches."""
        config, policy = self.config.bc, self.networks.policy
        remaining = config.steps - self.progress.cloned
        if remaining <= 0:
            return
        optimiser = self.networks.cloning_optimiser
        begun = time.perf_counter()
        losses: list[float] = []
        for step in range(self.progress.cloned, config.steps):
            if stop():
                return
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            optimiser.param_groups[0]["lr"] = rate
            loss = cloning_loss(policy, self.sampler.sample(config.batch_size))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            self.progress.cloned += 1
            losses.append(loss.item())
            if (step + 1) % 100 == 0 or step + 1 == config.steps:
                self.progress.seconds += time.perf_counter() - begun
                begun = time.perf_counter()
                self._log({"bc/loss": sum(losses) / len(losses)}, step + 1)
                losses.clear()

    def _iterate(self) -> None:
        """One rollout and what is learned from it."""
        begun = time.perf_counter()
        config = self.config
        rollout, metrics = collect(self._next_env(), self.networks.policy, config.reward)
        samples = Samples(rollout.observation[rollout.alive], rollout.action[rollout.alive])
        metrics |= self._update_discriminator(samples)
        reward, reward_metrics = self._reward(rollout)
        metrics |= reward_metrics
        nets = self.networks
        health = update(
            nets.policy,
            nets.critic,
            (nets.policy_optimiser, nets.critic_optimiser),
            rollout,
            reward,
            config.ppo,
            self.sampler.sample,
            self.advantage_scale,
            self._generator,
            train_policy=config.bc.steps == 0 or self.progress.iteration >= config.ppo.warmup_iterations,
        )
        metrics |= {f"ppo/{name}": value for name, value in health.items()}
        seconds = time.perf_counter() - begun
        self.progress.iteration += 1
        self.progress.timesteps += rollout.num_steps
        self.progress.seconds += seconds
        metrics["time/steps_per_s"] = rollout.num_steps / seconds
        self._log(metrics, self.progress.timesteps)

    def _next_env(self) -> Backend:
        """The environment of this rollout, with fresh worlds when it is time for them."""
        if self._env is None or self.progress.iteration % self.config.worlds.rollouts_per_batch == 0:
            self._env = renew(self._env, self.config, self.stream.next(), self.store.space)
        return self._env

    def _update_discriminator(self, policy: Samples) -> dict[str, float]:
        """Some gradient steps; the accuracies told are those before the first, on samples it has not learned from."""
        config, model = self.config.discriminator, self.networks.discriminator
        model.train()
        sums: dict[str, float] = {}
        first: Accuracy | None = None
        done = 0
        for _ in range(config.updates):
            pick = torch.randint(len(policy.action), (config.batch_size,), generator=self._generator).to(self.device)
            expert = self.sampler.sample(config.batch_size)
            loss, parts = discriminator_loss(model, expert, Samples(policy.observation[pick], policy.action[pick]))
            seen = accuracy(parts.pop("expert"), parts.pop("policy"))
            first = first or seen
            if seen.balanced > config.max_accuracy:
                break
            optimiser = self.networks.discriminator_optimiser
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            done += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        assert first is not None
        metrics = {f"discriminator/{name}": total / max(done, 1) for name, total in sums.items()}
        return metrics | {
            "discriminator/expert_accuracy": first.expert,
            "discriminator/policy_accuracy": first.policy,
            "discriminator/updates": float(done),
        }

    @torch.no_grad()
    def _reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """[H, N] rewards: the discriminator's, scaled, plus those of events."""
        config, model = self.config.reward, self.networks.discriminator
        model.eval()
        alive = rollout.alive
        chunks = zip(rollout.observation[alive].split(8192), rollout.action[alive].split(8192), strict=True)
        f = torch.cat([model(o, a) for o, a in chunks])
        reward = torch.zeros_like(rollout.event_reward)
        reward[alive] = rewards.FORMS[config.form](f.clamp(-config.clip, config.clip))
        metrics = {"reward/gail": reward[alive].mean().item(), "discriminator/policy_logit": f.mean().item()}
        scaled = config.gail * self.reward_scale(reward, alive, self.config.ppo.gamma) + rollout.event_reward
        return scaled, metrics | {"reward/event": rollout.event_reward[alive].mean().item()}

    def _log(self, metrics: dict[str, float], step: int) -> None:
        line = {"step": step, "iteration": self.progress.iteration, **metrics}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"seconds": round(self.progress.seconds, 3), **line}) + "\n")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._report(self.progress, metrics)
