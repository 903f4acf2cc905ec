"""Training: behaviour cloning, then rollouts, discriminator and PPO in turn; one folder a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gail_cli.gail.config.load import config_to_dict
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.matched import demo_transitions
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.demos.stores import MixedSampler, Stores
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.adversary import RewardScale
from gail_cli.gail.learning.backends import check_backend, renew
from gail_cli.gail.learning.cloning import clone, take_over
from gail_cli.gail.learning.events import event_reward
from gail_cli.gail.learning.expert_rows import ROWS, ExpertRows
from gail_cli.gail.learning.learners import Learners
from gail_cli.gail.learning.logger import MetricsLogger
from gail_cli.gail.learning.ppo import AdvantageScale, update
from gail_cli.gail.learning.progress import RunProgress
from gail_cli.gail.learning.requirements import check_fit
from gail_cli.gail.learning.rollout import Rollout, collect
from gail_cli.gail.learning.run import CLONED, Past, RunError, RunFolder, choose_device
from gail_cli.gail.networks.masking import masked
from gail_cli.pipeline.experts.replay import Experts
from gail_cli.sim.env import Backend

_NORMALISER_SAMPLES = 8192
_HELD_OUT_SAMPLES = 1024
_HISTOGRAM_EVERY = 10
"""Rollouts from one picture of the discriminator's estimates to the next."""


def open_stores(config: TrainConfig, paths: str | Path | Sequence[str | Path]) -> Stores:
    """The stores that a run learns from, if they hold what it needs and its simulator can hold them.

    Raises:
        RunError, StoreError, WeightsError: each one sentence.
        ImportError: likewise, when the simulator is not installed.
    """
    data, several = config.data, [paths] if isinstance(paths, str | Path) else paths
    stores = Stores.open(several, data.store_weights or None, data.agents, data.grows)
    for store in stores.stores:
        check_fit(data, store, config.sim)
        check_backend(config.backend, store, config.sim.selection)
    return stores


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
        self.config, self.folder = config, RunFolder(Path(folder))
        self.device = choose_device(config.device)
        self.stores = open_stores(config, stores)
        self.progress = RunProgress()
        self.reward_scale, self.advantage_scale = RewardScale(), AdvantageScale()
        self._report = report
        self._drawn = (0, 0)
        past = self.folder.restore(config, self.stores.locations, self.device) if resume else None
        if past is None:
            self.folder.begin(self.stores.locations)
        self.changed = {} if past is None else past.changed
        """Settings with which the run goes on otherwise than before: what they were and are."""
        torch.manual_seed(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self.learners = Learners.create(
            config, self.stores.space, self.device, lambda *asked: self.experts.judged(*asked), self._generator
        )
        self.networks, self.codes = self.learners.networks, self.learners.codes
        self.adversary, self.sight = self.learners.adversary, self.learners.sight
        if past is not None:
            self._restore(past.checkpoint)
        self._rules = rules = DemoRules.from_config(
            config.data, config.worlds, config.sim, config.observation, config.augment
        )
        self._sampler: DemoSampler | MixedSampler | None = None
        seed, drawn = config.seed, self._drawn[1]
        self.held_out = self.stores.held_out(rules, seed, drawn, self.device) if self.adversary else None
        next_state = self.adversary is not None and self.adversary.network.needs_next_state
        self.experts = ExpertRows(lambda *asked: self.sampler.sample(*asked), self.sight, self._generator, next_state)
        self._count_absorbing()
        if past is None:
            self._begin_policy()
        start = self.progress.iteration // config.worlds.rollouts_per_batch
        self.stream = self.stores.worlds(
            replace(rules, sim=config.rollout_sim),
            config.worlds.num_worlds,
            config.seed,
            start,
            self.device,
            config.matched,
        )
        self._env: Backend | None = None
        self._matched: Transitions | None = None
        self._logger = self._describe(past)

    @property
    def sampler(self) -> DemoSampler | MixedSampler:
        """Draws demos. Its pool is filled when it is first asked for: a run may need none, whose policy was cloned by
        another run and which learns from the demos of its own worlds."""
        if self._sampler is None:
            self._sampler = self.stores.sampler(self._rules, self.config.seed, self._drawn[0], self.device)
        return self._sampler

    def _begin_policy(self) -> None:
        """Let the policy be another run's clone, or fit its input statistics."""
        policy, config = self.networks.policy, self.config
        if config.bc.run is not None and config.clones:
            take_over(policy, config.bc.run, self.device)
            self.progress.cloned = config.cloning_steps
        else:
            sample = self.sampler.sample(_NORMALISER_SAMPLES)
            policy.fit_normaliser(sample.observation, sample.action)

    def _count_absorbing(self) -> None:
        """Tell the discriminator how often experts are in the absorbing state, if it learns from that."""
        if self.adversary is not None and self.config.discriminator.absorbing:
            self.adversary.absorbing_share = self.sampler.absorbing_share

    def _describe(self, past: Past | None) -> MetricsLogger:
        """Write down what the run is, only once nothing that it builds on can be amiss; and where it is logged."""
        config, progress = self.config, self.progress
        resumed = [] if past is None else list(past.resumed)
        if self.changed:
            resumed.append({"step": progress.timesteps, "changed": self.changed})
        with self.folder.writing():
            self.folder.describe(config, self.stores.space, self.stores.locations, resumed)
            if config.clones and config.bc.run is not None and not (self.folder.path / CLONED).exists():
                self.folder.write(CLONED, self.networks.policy.state_dict())
            settings = config_to_dict(config)
            return MetricsLogger(self.folder.path, config.wandb, settings, progress.cloned, progress.iteration)

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
        if self._sampler is not None:
            self._sampler.close()
        if self.held_out is not None:
            self.held_out.close()
        self.stream.close()
        self._logger.close()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = self.learners.state_dict() | {
            "progress": vars(self.progress),
            "reward_scale": vars(self.reward_scale),
            "advantage_scale": vars(self.advantage_scale),
            "drawn": (
                self._drawn[0] if self._sampler is None else self._sampler.drawn,
                self.held_out.drawn if self.held_out else 0,
            ),
            "generator": self._generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        self.folder.save(state)

    def _restore(self, state: dict[str, Any]) -> None:
        weights = state.get("networks", {}).get("policy", {})
        if "head.weight" in weights:  # eyes and actor were not told apart
            what = "it was begun by an earlier version, with other networks"
            raise RunError(self.folder.where, what, "begin a new run from its clone (--set bc.run=...)")
        try:
            self.learners.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            what, fix = "its checkpoint is of other networks", "resume with the configuration it began with"
            fix += f" (changed: {', '.join(self.changed)})" if self.changed else ""
            raise RunError(self.folder.where, what, fix) from error
        self.learners.set_rates(self.config)
        try:
            self.progress = RunProgress(**state["progress"])
            self.reward_scale = RewardScale(**state["reward_scale"])
            self.advantage_scale = AdvantageScale(**state["advantage_scale"])
            self._drawn = tuple(state["drawn"])
            self._generator.set_state(state["generator"].cpu())
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(self.folder.where, "its checkpoint is of another version", "begin a new run") from error
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])

    def _demos(self, count: int) -> Transitions:
        """A batch to clone before the first rollout."""
        batch = self.sampler.sample(count)
        seen = masked(batch.observation, self.config.observation, self.config.masking)
        return self.learners.with_codes(replace(batch, observation=seen))

    def _clone(self, stop: Callable[[], bool]) -> None:
        """Behaviour cloning, if it is wanted and not done."""
        policy, progress = self.networks.policy, self.progress
        if progress.iteration or progress.cloned >= self.config.cloning_steps:
            return
        optimiser = self.networks.cloning_optimiser
        if clone(policy, optimiser, self._demos, self.config.bc, progress, self._log, stop):
            self.folder.write(CLONED, policy.state_dict())

    def _iterate(self) -> None:
        """One rollout and what is learned from it."""
        begun = time.perf_counter()
        config, nets, sight = self.config, self.networks, self.sight
        self._join()
        sight.begin(self.progress.timesteps)
        nets.anneal(config.ppo, self.progress.timesteps / max(config.total_timesteps, 1))
        env = self._next_env()
        rollout, metrics = collect(env, sight.actor, sight.show, self.learners.codes_of_rollout(env.num_agents))
        judged = sight.judged_rollout(rollout)
        metrics |= self._learn_rewards(judged)
        reward, reward_metrics = self._reward(judged)
        metrics |= reward_metrics
        learns = not config.cloned or self.progress.iteration >= config.ppo.warmup_iterations
        metrics |= self.learners.teach_manager(judged, reward, learns)
        metrics |= {} if self.codes is None else self.codes.update(judged)
        health = update(
            sight.actor,
            sight.critic,
            (nets.policy_optimiser, nets.critic_optimiser),
            rollout,
            reward,
            config.ppo,
            (lambda count: self.learners.with_codes(self.experts.shown(count))) if config.clones else None,
            self.advantage_scale,
            self._generator,
            train_policy=learns,
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
        if self.stores.refresh():
            self._count_absorbing()

    def _next_env(self) -> Backend:
        """The environment of this rollout, with fresh worlds when it is time for them."""
        if self._env is None or self.progress.iteration % self.config.worlds.rollouts_per_batch == 0:
            config, batch = self.config, self.stream.next()
            sim, space = config.rollout_sim, self.stores.space
            self._env = renew(self._env, config.backend, sim, config.observation, batch.worlds, space)
            self._matched = None if batch.experts is None else self._demos_of(batch.experts)
        self.experts.renew(self._matched)
        if self.progress.iteration == 0:
            self.learners.fit_normalisers(self.experts.judged(_NORMALISER_SAMPLES))
        return self._env

    def _demos_of(self, experts: Experts) -> Transitions | None:
        """Demos of a rollout's own worlds, at most so many as are looked at per rollout, any of them; None where no
        agent of theirs passes the filter, so that they are drawn from the pool."""
        count = len(experts.transitions)
        if not count:
            return None
        rng = np.random.default_rng(
            [self.config.seed, self.progress.iteration // self.config.worlds.rollouts_per_batch]
        )
        rows = np.sort(rng.permutation(count)[:ROWS])
        chosen = torch.from_numpy(rows).to(self.device)
        return demo_transitions(experts, self.config.observation, self.experts.next_state, chosen)

    def _learn_rewards(self, rollout: Rollout) -> dict[str, float]:
        """Updates of the discriminator."""
        if self.adversary is None:
            return {}
        held_out = None
        if self.held_out is not None:
            held_out = self.held_out.sample(_HELD_OUT_SAMPLES, self.experts.next_state)
            held_out = self.sight.judged_demos(self.sight.demos(held_out))
        return self.adversary.learn(rollout, self.progress.iteration, held_out)

    def _reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """[H, N] rewards: the discriminator's, scaled, plus those of events, the environment and latent codes."""
        config, alive = self.config.reward, rollout.alive
        paid = event_reward(rollout.happened, rollout.fault, alive, self.config.events)
        reward = self.config.environment_weight * rollout.environment_reward + self.config.events_weight * paid
        metrics = {
            "reward/environment": rollout.environment_reward[alive].mean().item(),
            "reward/events": paid[alive].mean().item(),
        }
        if self.adversary is not None:
            gail, gail_metrics = self.adversary.reward(rollout)
            if self.adversary.network.scales_reward:
                gail = self.reward_scale(gail, alive, self.config.ppo.gamma)
            reward = reward + config.gail * gail
            metrics |= gail_metrics
            if self.progress.iteration % _HISTOGRAM_EVERY == 0:
                self._logger.histogram(
                    "discriminator/policy_estimates", self.adversary.estimates(rollout), self.progress.timesteps
                )
        if self.codes is not None:
            bonus = self.codes.reward(rollout)
            reward = reward + bonus
            metrics["reward/latent"] = bonus[alive].mean().item()
        return reward, metrics

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._logger.write(metrics, step, seconds=round(self.progress.seconds, 3), iteration=self.progress.iteration)
        self._report(self.progress, metrics)
