"""Training: behaviour cloning, then rollouts, discriminator and PPO in turn; one folder a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gail_cli.gail.config.load import config_to_dict
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.stores import Stores
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.adversary import Adversary
from gail_cli.gail.learning.backends import check_backend, renew
from gail_cli.gail.learning.latent import Codes
from gail_cli.gail.learning.logger import MetricsLogger
from gail_cli.gail.learning.ppo import AdvantageScale, cloning_loss, discounted_returns, update
from gail_cli.gail.learning.rollout import Rollout, collect
from gail_cli.gail.learning.run import (
    CHECKPOINT,
    CLONED,
    CONFIG,
    ENVIRONMENT,
    RunError,
    changed_settings,
    check_fit,
    choose_device,
    load_cloned,
    read_checkpoint,
    read_environment,
)
from gail_cli.gail.networks.actor_critic import Networks
from gail_cli.gail.networks.masking import masked
from gail_cli.sim.env import Backend

_NORMALISER_SAMPLES = 8192
_HELD_OUT_SAMPLES = 1024
_HISTOGRAM_EVERY = 10
"""Rollouts from one picture of the discriminator's estimates to the next."""


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
class RunProgress:
    """How far a run is."""

    iteration: int = 0
    timesteps: int = 0
    seconds: float = 0.0
    cloned: int = 0
    """Behaviour-cloning steps done."""
    unreported: int = 0
    """Of these, the last ones, whose loss is in no report yet."""
    cloning_loss: float = 0.0
    """The sum of their losses."""


class Trainer:
    """A run in its folder, whatever ``algorithm`` it follows.

    Args:
        config: what to do.
        stores: the demo store, or several, drawn from by ``data.store_weights``.
        folder: where config, metrics and checkpoints go; created.
        resume: go on from the folder's checkpoint.
        report: called after each cloning report and each rollout with the run's progress and its newest metrics.

    Raises:
        RunError, ConfigError, StoreError, WeightsError: each one sentence.
    """

    def __init__(
        self,
        config: TrainConfig,
        stores: str | Path | Sequence[str | Path],
        folder: str | Path,
        resume: bool = False,
        report: Callable[[RunProgress, dict[str, float]], None] = lambda progress, metrics: None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.device = choose_device(config.device)
        paths = [stores] if isinstance(stores, str | Path) else stores
        self.stores = Stores.open(paths, config.data.store_weights or None, config.data.agents, config.data.grows)
        for store in self.stores.stores:
            check_fit(config, store)
            check_backend(config, store)
        self.progress = RunProgress()
        self.changed: dict[str, tuple[Any, Any]] = {}
        """Settings with which the run goes on otherwise than before: what they were and are."""
        self._resumed: list[dict[str, Any]] = []
        self.reward_scale = RewardScale()
        self.advantage_scale = AdvantageScale()
        self._report = report
        self._drawn: tuple[int, int] = (0, 0)
        torch.manual_seed(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._create()
        checkpoint = self._begin(resume)
        if checkpoint:
            self._restore(checkpoint)
        rules = DemoRules.from_config(config.data, config.worlds, config.sim, config.observation, config.augment)
        drawn, held_out = self._drawn
        self.sampler = self.stores.sampler(rules, config.seed, drawn, self.device)
        self.held_out = self.stores.held_out(rules, config.seed, held_out, self.device) if self.adversary else None
        if self.adversary is not None:
            self.adversary.absorbing_share = self.sampler.absorbing_share
        if not checkpoint:
            self._fit_normalisers(self.sampler.sample(_NORMALISER_SAMPLES))
            self._take_over()
        start = self.progress.iteration // config.worlds.rollouts_per_batch
        self.stream = self.stores.worlds(rules, config.worlds.num_worlds, config.seed, start, self.device)
        self._env: Backend | None = None
        self._describe()

    def _create(self) -> None:
        """What learns in this algorithm."""
        config, space = self.config, self.stores.space
        self.networks = Networks.create(config, space, self.device)
        self.codes = Codes(config, space, self.device, self._generator) if config.latent.codes else None
        self.adversary: Adversary | None = None
        if config.adversarial:
            self.adversary = Adversary(config, space, self.device, self._experts, self._log_prob, self._generator)

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end, or until ``stop`` says so between two steps; a checkpoint is left however it ends."""
        try:
            self._clone(stop)
            while self.progress.timesteps < self.config.rollout_timesteps and not stop():
                self._iterate()
                if self.progress.iteration % self.config.checkpoint_every == 0:
                    self.save()
        finally:
            self.save()
            self.close()

    def close(self) -> None:
        """Stop background threads and close files."""
        self.sampler.close()
        if self.held_out is not None:
            self.held_out.close()
        self.stream.close()
        self._journal.close()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: part.state_dict() for name, part in self._learning().items()} | {
            "progress": vars(self.progress),
            "reward_scale": vars(self.reward_scale),
            "advantage_scale": vars(self.advantage_scale),
            "drawn": (self.sampler.drawn, self.held_out.drawn if self.held_out else 0),
            "generator": self._generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        self._write(CHECKPOINT, state)

    def _write(self, name: str, state: Any) -> None:
        temporary = self.folder / f".{name}"
        torch.save(state, temporary)
        temporary.replace(self.folder / name)

    def _learning(self) -> dict[str, Any]:
        """What learns, by its name in the checkpoint."""
        parts = {"networks": self.networks, "adversary": self.adversary, "codes": self.codes}
        return {name: part for name, part in parts.items() if part is not None}

    def _begin(self, resume: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from, if any."""
        file = self.folder / CHECKPOINT
        if file.exists() and not resume:
            raise RunError(f"run {self.folder}: there is a run already; add --resume to go on, or name another folder")
        if resume and not file.exists():
            raise RunError(f"run {self.folder}: there is no checkpoint to go on from; leave --resume out to begin")
        inside = [str(self.folder.resolve()), *map(str, self.folder.resolve().parents)]
        if any(location in inside for location in self.stores.locations):
            raise RunError(f"run {self.folder}: it would lie inside the store; name another folder")
        if not resume:
            return None
        environment = read_environment(self.folder)
        before, self._resumed = environment["stores"], environment["resumed"]
        if before != self.stores.locations:
            then, now = ", ".join(before), ", ".join(self.stores.locations)
            raise RunError(f"run {self.folder}: it learned from {then}, not {now}; resume with that store")
        self.changed = changed_settings(self.folder, self.config)
        return read_checkpoint(self.folder, self.device)

    def _describe(self) -> None:
        """Write down what the run is; only once nothing that it builds on can be amiss."""
        if self.changed:
            self._resumed.append({"step": self.progress.timesteps, "changed": self.changed})
        spec = {"action_space": self.stores.space.to_json(), "stores": self.stores.locations, "resumed": self._resumed}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / CONFIG).write_text(yaml.safe_dump(config_to_dict(self.config), sort_keys=False))
            (self.folder / ENVIRONMENT).write_text(json.dumps(spec, indent=1))
            if self.config.clones and self.config.bc.run is not None and not (self.folder / CLONED).exists():
                self._write(CLONED, self.networks.policy.state_dict())
            self._journal = MetricsLogger(self.folder, self.config, self.progress.cloned, self.progress.iteration)
        except OSError as error:
            raise RunError(f"run {self.folder}: cannot be written ({error.strerror}); choose another folder") from error

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            for name, part in self._learning().items():
                part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunError(
                f"run {self.folder}: its checkpoint is of other networks; resume with the configuration it began with"
            ) from error
        self.networks.set_rates(self.config)
        if self.adversary is not None:
            self.adversary.provider.set_rates(self.config)
        try:
            self.progress = RunProgress(**state["progress"])
            self.reward_scale = RewardScale(**state["reward_scale"])
            self.advantage_scale = AdvantageScale(**state["advantage_scale"])
            self._drawn = tuple(state["drawn"])
            self._generator.set_state(state["generator"].cpu())
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"run {self.folder}: its checkpoint is of another version; begin a new run") from error
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])

    def _fit_normalisers(self, expert: Transitions) -> None:
        self.networks.fit_normalisers(expert)
        if self.adversary is not None:
            self.adversary.fit_normaliser(expert)
        if self.codes is not None:
            self.codes.posterior.encoder.fit_normaliser(expert.observation)

    def _experts(self, count: int, next_state: bool = False) -> Transitions:
        """A batch of demos, masked as rollouts are."""
        return self._masked(self.sampler.sample(count, next_state))

    def _masked(self, batch: Transitions) -> Transitions:
        layout, masking = self.config.observation, self.config.masking
        following = batch.next_observation
        return replace(
            batch,
            observation=masked(batch.observation, layout, masking),
            next_observation=None if following is None else masked(following, layout, masking),
        )

    def _demos(self, count: int) -> Transitions:
        """A batch to clone, each row with a latent code if the policy has some."""
        batch = self._experts(count)
        if self.codes is None:
            return batch
        code = self.codes.infer(batch.observation, batch.action)
        return Transitions(self.networks.policy.with_code(batch.observation, code), batch.action)

    @torch.no_grad()
    def _log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """[B] of actions under the present policy, with codes as the posterior finds them."""
        code = None if self.codes is None else self.codes.infer(observation, action)
        policy = self.networks.policy
        return policy.evaluate(policy.with_code(observation, code), action)[0]

    def _clone(self, stop: Callable[[], bool]) -> None:
        """Behaviour cloning on expert batches."""
        config, policy = self.config.bc, self.networks.policy
        steps = self.config.cloning_steps
        if self.progress.cloned >= steps or self.progress.iteration:
            return
        policy.train()
        optimiser = self.networks.cloning_optimiser
        begun = time.perf_counter()
        for step in range(self.progress.cloned, steps):
            if stop():
                return
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimiser.param_groups[0]["lr"] = rate
            loss = cloning_loss(policy, self._demos(config.batch_size))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            self.progress.cloned += 1
            self.progress.unreported += 1
            self.progress.cloning_loss += loss.item()
            if (step + 1) % 100 == 0 or step + 1 == steps:
                self.progress.seconds += time.perf_counter() - begun
                begun = time.perf_counter()
                mean = self.progress.cloning_loss / self.progress.unreported
                self.progress.cloning_loss, self.progress.unreported = 0.0, 0
                self._log({"bc/loss": mean}, step + 1)
        self._write(CLONED, policy.state_dict())

    def _take_over(self) -> None:
        """Begin with the cloned policy of another run, if there is to be one."""
        folder = self.config.bc.run
        if folder is None or not self.config.clones:
            return
        cloned = load_cloned(folder, str(self.device))
        if cloned is None:
            raise RunError(f"run {folder}: it has no cloned policy; name one that cloned (bc.run)")
        try:
            self.networks.policy.load_state_dict(cloned.state_dict())
        except RuntimeError as error:
            raise RunError(f"run {folder}: its policy is another network than this run's; set policy alike") from error
        self.progress.cloned = self.config.cloning_steps

    def _iterate(self) -> None:
        """One rollout and what is learned from it."""
        begun = time.perf_counter()
        config, nets = self.config, self.networks
        self._join()
        env = self._next_env()
        code = None if self.codes is None else self.codes.draw(env.num_agents)
        rollout, metrics = collect(env, nets.policy, config.masking, code)
        metrics |= self._learn_to_judge(rollout)
        reward, reward_metrics = self._reward(rollout)
        metrics |= reward_metrics
        health = update(
            nets.policy,
            nets.critic,
            (nets.policy_optimiser, nets.critic_optimiser),
            rollout,
            reward,
            config.ppo,
            self._demos if config.clones else None,
            self.advantage_scale,
            self._generator,
            train_policy=config.cloning_steps == 0 or self.progress.iteration >= config.ppo.warmup_iterations,
        )
        metrics |= {f"ppo/{name}": value for name, value in health.items()}
        seconds = time.perf_counter() - begun
        self.progress.iteration += 1
        self.progress.timesteps += rollout.num_steps
        self.progress.seconds += seconds
        metrics["time/steps_per_s"] = rollout.num_steps / seconds
        self._log(metrics, self.progress.timesteps)

    def _join(self) -> None:
        """Let what an extraction has added to the stores take part."""
        if self.stores.refresh() and self.adversary is not None:
            self.adversary.absorbing_share = self.sampler.absorbing_share

    def _next_env(self) -> Backend:
        """The environment of this rollout, with fresh worlds when it is time for them."""
        if self._env is None or self.progress.iteration % self.config.worlds.rollouts_per_batch == 0:
            self._env = renew(self._env, self.config, self.stream.next(), self.stores.space)
        return self._env

    def _learn_to_judge(self, rollout: Rollout) -> dict[str, float]:
        """Updates of the discriminator, and of the posterior of latent codes."""
        metrics: dict[str, float] = {}
        if self.adversary is not None:
            held_out = None
            if self.held_out is not None:
                held_out = self.held_out.sample(_HELD_OUT_SAMPLES, self.config.discriminator.needs_next_state)
                held_out = self._masked(held_out)
            metrics |= self.adversary.learn(rollout, self.progress.iteration, held_out)
        if self.codes is not None:
            latent = self.config.latent
            metrics |= self.codes.update(rollout, latent.batch_size, latent.updates)
        return metrics

    def _reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """[H, N] rewards: the discriminator's, scaled, plus the environment's, plus what latent codes are paid."""
        config, alive = self.config.reward, rollout.alive
        reward = self.config.environment_weight * rollout.environment_reward
        metrics = {"reward/environment": rollout.environment_reward[alive].mean().item()}
        if self.adversary is not None:
            paid, told = self.adversary.reward(rollout)
            scaled = self.config.discriminator.compat is None  # ML-Agents pays what it finds
            gail = self.reward_scale(paid, alive, self.config.ppo.gamma) if scaled else paid
            reward = reward + config.gail * gail
            metrics |= told
            if self.progress.iteration % _HISTOGRAM_EVERY == 0:
                self._journal.histogram(
                    "discriminator/policy_estimates", self.adversary.estimates(rollout), self.progress.timesteps
                )
        if self.codes is not None:
            bonus = self.codes.reward(rollout)
            reward = reward + bonus
            metrics["reward/latent"] = bonus[alive].mean().item()
        return reward, metrics

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._journal.write(metrics, step, seconds=round(self.progress.seconds, 3), iteration=self.progress.iteration)
        self._report(self.progress, metrics)
