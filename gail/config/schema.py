"""What a run can be told: typed dataclasses, read from files and options by :mod:`gail.config.load`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gail_cli.pipeline.experts.augment import Augmentation
from gail_cli.sim.env import GPUDRIVE_AGENTS, SimConfig
from gail_cli.sim.layout import ObservationConfig

RoleName = Literal["sdc", "track_to_predict", "object_of_interest", "mark_as_expert", "parked", "late"]
"""Names of :class:`~sim.scene.Role`, in small letters."""


def _positive(section: str, **values: float | None) -> None:
    """Refuse values of a section that are not positive, nor None; no section is named where several have these keys."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{section}{'.' if section else ''}{name} is {value}; it must be positive")


@dataclass(frozen=True)
class DemoFilter:
    """Which demos a run learns from. It changes nobody's part in the simulation: see ``sim.selection`` for that."""

    split: Literal["train", "validation", "test", "all"] = "train"
    """Scenes of this split alone, for demos and for worlds; a store that was not split is all ``train``."""
    types: tuple[Literal["vehicle", "pedestrian", "cyclist", "other"], ...] | None = None
    """Demos of these agent types alone; None for all."""
    roles: tuple[RoleName, ...] = ()
    """Demos of agents that have all of these roles alone."""
    without_roles: tuple[RoleName, ...] = ()
    """Demos of agents that have none of these roles alone."""
    max_replay_error: float | None = None
    """Demos whose mean distance from the log (``ade_m``) is at most this alone, m; None for all."""

    def __post_init__(self) -> None:
        if self.max_replay_error is not None and self.max_replay_error < 0:
            raise ValueError(f"data.max_replay_error is {self.max_replay_error}; it must not be negative")


@dataclass(frozen=True)
class DataConfig(DemoFilter):
    """Which expert demos are read from which stores, and how."""

    stores: tuple[str, ...] = ()
    """Demo stores: folders, .zip files or URLs; those that the command line names come instead."""
    store_weights: tuple[float, ...] = ()
    """How often each store is drawn from compared with the others; all alike when there are none."""
    max_scenes: int | None = None
    """Learn in and from no more scenes of each store than so many, the first ones of the split; null: all."""
    agents: Literal["vehicles", "vru"] = "vehicles"
    """Whom the policy drives: vehicles, or pedestrians and cyclists, of whom the store must have demos
    (``extract-demos --agents all``) and ``sim.selection.remove_non_vehicles`` must be false."""
    weights: Literal["transition", "scene"] = "transition"
    """``transition``: each transition is drawn alike; ``scene``: each scene is, then a transition in it, so that scenes
    with many agents count no more than others."""
    pool_scenes: int = 4096
    """Scenes held ready for sampling, some 125 kB each; this bounds memory, whatever the size of the store. Each
    variant of a scene (``augment.variants``) counts as one."""
    rows_per_scene: int = 256
    """Rows drawn a scene, on average, before it makes room for another (nothing is replaced if all fit). A real scene
    has some 800 transitions; fewer rows mix better and cost more reading."""
    dynamics: Literal["classic", "bicycle", "delta_local"] | None = None
    """What the store must hold for this run; None takes what it has. Checked by ``gail-cli validate --config``."""
    actions: Literal["discrete", "continuous"] | None = None
    """Likewise for the kind of actions."""
    grid: str | None = None
    """Likewise for the named action grid."""
    grows: bool = False
    """Learn from a store whose extraction still runs, too: scenes join between rollouts as it finishes them, which
    makes a run depend on when it does. Otherwise an unfinished store is refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("data", pool_scenes=self.pool_scenes, rows_per_scene=self.rows_per_scene, max_scenes=self.max_scenes)


@dataclass(frozen=True)
class WorldsConfig:
    """Which worlds a rollout visits."""

    mode: Literal["multi_agent", "single_agent"] = "multi_agent"
    """``multi_agent``: a world is a scene, all of whose agents a policy controls at once; ``single_agent``: a world has
    one controlled agent, each of a scene's in turn, and everyone else follows the log."""
    num_worlds: int | None = None
    """Worlds simulated side by side, among which a scene may be several times; None: 32, or as many as there are
    scenes if they are not varied (``augment``)."""
    max_single_agent_envs: int | None = None
    """In ``single_agent``: the run knows no more agents than so many, the first ones of the scenes in an order of the
    seed; neither worlds nor demos are of others. None for all."""
    rollouts_per_batch: int = 1
    """Rollouts before the next scenes come (loaded in the background)."""

    def __post_init__(self) -> None:
        _positive("worlds", rollouts_per_batch=self.rollouts_per_batch, num_worlds=self.num_worlds)
        _positive("worlds", max_single_agent_envs=self.max_single_agent_envs)
        if self.max_single_agent_envs is not None and self.mode != "single_agent":
            raise ValueError("worlds.max_single_agent_envs needs worlds.mode single_agent; set that, or leave it out")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of an entity encoder and the layers behind it."""

    entity_hidden: int = 32
    """Width of the layers that look at one partner or one road segment."""
    hidden: int = 128
    """Width of the layers behind the pooling."""
    layers: int = 2
    """How many of those there are; the first one takes in what was pooled."""

    def __post_init__(self) -> None:
        _positive("", entity_hidden=self.entity_hidden, hidden=self.hidden, layers=self.layers)


@dataclass(frozen=True)
class PolicyConfig(NetworkConfig):
    """Sizes of the policy's network; those of the critic's are the same."""

    entity_hidden: int = 64
    """Width of the layers that look at one partner or one road segment."""
    hidden: int = 256
    """Width of the layers behind the pooling."""
    dropout: float = 0.2
    """Share of hidden units left out in cloning. The policy drives, and is improved by PPO, with all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"policy.dropout is {self.dropout}; it must be in [0, 1)")


@dataclass(frozen=True)
class BCConfig:
    """Behaviour cloning before the first rollout, where ``algorithm`` says so."""

    steps: int = 5000
    """Gradient steps; 0 starts from a random policy."""
    run: str | None = None
    """Folder of a run whose cloned policy is taken over instead."""
    batch_size: int = 512
    learning_rate: float = 1e-3
    """Falls to zero over the steps along a cosine."""
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        _positive("bc", batch_size=self.batch_size, learning_rate=self.learning_rate)
        if self.steps < 0 or self.weight_decay < 0:
            raise ValueError("bc.steps and bc.weight_decay must not be negative; 0 steps switch the warm start off")


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017)."""

    learning_rate: float = 2e-4
    critic_learning_rate: float = 1e-3
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    epochs: int = 3
    minibatch_size: int = 1024
    entropy: float = 1e-3
    max_grad_norm: float = 0.5
    weight_decay: float = 0.0
    """Of the policy."""
    critic_weight_decay: float = 0.0
    warmup_iterations: int = 2
    """First rollouts after the warm start in which critic and discriminator learn but the policy does not."""
    bc_coefficient: float = 0.25
    """Weight of the cloning loss on an expert batch beside each policy minibatch, where ``algorithm`` clones; 0
    switches it off."""
    bc_batch_size: int = 256
    bootstrap_truncation: bool = True
    """Value the future of an agent whose time or log ran out; False treats that as the end."""

    def __post_init__(self) -> None:
        _positive("ppo", learning_rate=self.learning_rate, epochs=self.epochs, minibatch_size=self.minibatch_size)
        _positive("ppo", critic_learning_rate=self.critic_learning_rate, clip=self.clip)
        _positive("ppo", max_grad_norm=self.max_grad_norm, bc_batch_size=self.bc_batch_size)
        for name in ("entropy", "weight_decay", "critic_weight_decay", "bc_coefficient", "warmup_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}; it must not be negative")
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError("ppo.gamma must be in (0, 1] and ppo.gae_lambda in [0, 1]")


@dataclass(frozen=True)
class NetworkSettings:
    """The network of ML-Agents' discriminator, by its names."""

    hidden_units: int = 128
    num_layers: int = 2
    normalize: bool = False
    """Standardise observations by statistics that follow the experts' minibatches."""
    memory: dict[str, Any] | None = None
    """Ignored, with a warning, as in ML-Agents: its discriminator has no memory."""

    def __post_init__(self) -> None:
        _positive("network_settings", hidden_units=self.hidden_units, num_layers=self.num_layers)


@dataclass(frozen=True)
class GAILSettings:
    """ML-Agents' settings of its GAIL reward, by its names; they count where ``discriminator.compat`` is ``mlagents``.

    The rest is constant there: gradient penalty 10, and for VAIL 128 dimensions, I_c 0.5, alpha 5e-4, beta_0 0.
    """

    demo_path: str | None = None
    """The demo store, where the command line names none."""
    learning_rate: float = 3e-4
    """Of Adam."""
    use_actions: bool = False
    """See actions, and with them who is done."""
    use_vail: bool = False
    strength: float = 1.0
    """Factor on the reward."""
    gamma: float = 0.99
    """Discount of this reward."""
    network_settings: NetworkSettings = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        _positive("discriminator.mlagents", learning_rate=self.learning_rate)
        if not 0 < self.gamma <= 1 or self.strength < 0:
            raise ValueError("discriminator.mlagents: gamma must be in (0, 1] and strength must not be negative")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The network that tells expert from policy, and how it learns."""

    compat: Literal["mlagents"] | None = None
    """``mlagents``: network, loss, update and reward are those of ML-Agents, quirks included, with the settings of
    ``discriminator.mlagents``; of this section only the numbers of samples and updates count then, and of ``reward``
    neither ``form`` nor ``clip``."""
    mlagents: GAILSettings = field(default_factory=GAILSettings)
    inputs: Literal["state", "state_action", "state_next_state"] = "state_action"
    structure: Literal["joint", "split", "airl"] = "joint"
    """See :class:`gail.networks.discriminator.DiscriminatorNetwork`."""
    neighbour_weight: float = 1.0
    """In ``split``: a, what the ego-neighbour head counts against the ego-map head."""
    neighbour_range: float = 10.0
    """In ``split``: b in the weight exp(-d / b) of a neighbour whose centre is d away, m."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    normalise: bool = True
    """Standardise observations and continuous actions by statistics of the experts, taken once and frozen. Otherwise
    they keep the scales of the layout."""
    absorbing: bool = False
    """Learn from absorbing states too (Kostrikov et al. 2018): a column tells them, and all else of them is zero."""
    dropout: float = 0.1
    """Share of hidden units left out while it learns; rewards are given without."""
    spectral_norm: bool = False
    """Hold the largest singular value of each linear layer at 1 (Miyato et al. 2018); LayerNorm, which would undo
    that, is left out."""
    use_vail: bool = False
    """A variational bottleneck before the last layer (Peng et al. 2019)."""
    vail_z: int = 128
    """Dimensions of the bottleneck."""
    vail_target_kl: float = 0.5
    """I_c, the information that may pass, nats."""
    vail_beta: float = 0.0
    """beta_0, the weight of the information's price at the start."""
    vail_beta_step: float = 5e-4
    """alpha, the step size of beta."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    momentum: float = 0.5
    """beta_1 of AdamW."""
    weight_decay: float = 1e-4
    batch_size: int = 512
    """Of expert and of policy samples each."""
    updates: int = 40
    """Gradient steps a rollout."""
    epochs: int | None = None
    """Passes over a rollout instead of a number of ``updates``: steps are epochs times samples over batch size."""
    update_every: int = 1
    """Learn after each of so many rollouts alone."""
    policy_buffer_size: int | None = None
    """Learn from the newest samples of this many, those of earlier policies too; null: from the present rollout."""
    min_policy_data: int = 0
    """Do not learn before there are so many samples of the policy."""
    gradient_penalty: float = 0.0
    """Weight of mean (|gradient of the logit| - 1)^2 at random interpolates (Gulrajani et al. 2017); 0 is off.
    Observations have scales of 1, on which expert and policy differ by hundredths: a unit slope hides that."""
    label_smoothing: float = 0.0
    max_accuracy: float = 0.9
    """No further update in a rollout while the balanced accuracy is above this."""

    def __post_init__(self) -> None:
        _positive("discriminator", learning_rate=self.learning_rate, batch_size=self.batch_size, updates=self.updates)
        _positive("discriminator", neighbour_range=self.neighbour_range, vail_z=self.vail_z, epochs=self.epochs or 1)
        if self.epochs == 0 or self.policy_buffer_size == 0:
            raise ValueError("discriminator.epochs and discriminator.policy_buffer_size must be positive, or null")
        _positive("discriminator", update_every=self.update_every, policy_buffer_size=self.policy_buffer_size or 1)
        for name in ("gradient_penalty", "weight_decay", "neighbour_weight", "vail_target_kl", "vail_beta",
                     "vail_beta_step", "min_policy_data"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"discriminator.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("dropout", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"discriminator.{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.policy_buffer_size is not None and self.min_policy_data > self.policy_buffer_size:
            raise ValueError("discriminator.policy_buffer_size never holds discriminator.min_policy_data; raise it")
        if not 0 <= self.max_accuracy <= 1:
            raise ValueError(f"discriminator.max_accuracy is {self.max_accuracy}; it must be in [0, 1]")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError("discriminator.label_smoothing must be in [0, 0.5)")
        if self.use_vail and self.structure != "joint":
            raise ValueError("discriminator.use_vail needs one joint network; set discriminator.structure to joint")
        if self.absorbing and self.compat == "mlagents":
            raise ValueError("ML-Agents knows no absorbing states; leave out discriminator.absorbing or .compat")
        if self.absorbing and (self.structure == "airl" or self.inputs == "state_next_state"):
            raise ValueError(
                "discriminator.absorbing tells of one state, not of two; leave out structure airl and state_next_state"
            )


BESIDE_CLONE = 0.3
"""Weight of the environment's reward beside GAIL's for a policy that was cloned, unless told otherwise."""


@dataclass(frozen=True)
class RewardConfig:
    """From the discriminator's logit, and the environment's own reward, to the reward."""

    form: Literal["logit", "gail", "airl", "bounded", "dail"] = "logit"
    """See :mod:`gail.learning.rewards`."""
    clip: float = 10.0
    gail: float = 1.0
    """Weight of the discriminator's reward."""
    environment: float | None = None
    """Weight of the environment's own reward (``sim.reward``) beside it; null: 0.3 after cloning, and 0 with
    ``algorithm: gail``, where it hinders more than it helps. With ``ppo``, where there is nothing else, it counts 1."""

    def __post_init__(self) -> None:
        _positive("reward", clip=self.clip)
        if self.gail < 0 or (self.environment or 0.0) < 0:
            raise ValueError("reward.gail and reward.environment must not be negative; they would pay for the opposite")


@dataclass(frozen=True)
class MaskingConfig:
    """Entities hidden at random while a policy learns; see :mod:`gail.networks.masking`."""

    roads: float = 0.95
    """Each observation lacks a share of its road segments that is uniform between none and this."""
    all_roads: float = 0.4
    """Chance that it lacks all."""
    partners: float = 0.9
    """Likewise of partners."""
    all_partners: float = 0.3
    """Likewise."""

    def __post_init__(self) -> None:
        for name in ("roads", "all_roads", "partners", "all_partners"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name} is {getattr(self, name)}; it must be in [0, 1]")

    @property
    def hides(self) -> bool:
        """Whether anything is ever hidden."""
        return max(self.roads, self.all_roads, self.partners, self.all_partners) > 0


@dataclass(frozen=True)
class LatentConfig:
    """Latent codes, for several ways of driving in one policy (InfoGAIL, Li et al. 2017)."""

    codes: int = 0
    """How many there are; 0 for none."""
    weight: float = 0.05
    """Reward a nat of what an action tells of the code."""
    learning_rate: float = 1e-3
    """Of the posterior, with Adam."""
    batch_size: int = 512
    updates: int = 20
    """Gradient steps of the posterior a rollout."""

    def __post_init__(self) -> None:
        _positive("latent", learning_rate=self.learning_rate, batch_size=self.batch_size, updates=self.updates)
        if self.codes < 0 or self.codes == 1 or self.weight < 0:
            raise ValueError("latent.codes must be 0 or at least 2, and latent.weight not negative")


@dataclass(frozen=True)
class WandbConfig:
    """Metrics to Weights & Biases too, under the names that they have everywhere."""

    project: str | None = None
    """Switches it on."""
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    """Of the run; that of its folder when null."""
    mode: Literal["online", "offline", "disabled"] = "online"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, beside the store."""

    algorithm: Literal["bc+gail", "gail", "bc", "ppo"] = "bc+gail"
    """``bc+gail``: clone, then GAIL with the cloning loss beside it; ``gail``: GAIL from a random policy, nothing
    cloned; ``bc``: clone and stop; ``ppo``: the environment's reward (``sim.reward``) alone, no expert."""
    seed: int = 0
    total_timesteps: int = 1_000_000
    """Steps of controlled agents."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["embedded", "gpudrive"] = "embedded"
    """The simulator that policies drive in: this project's own, or the real GPUDrive, which has to be installed, needs
    ``sim.compat: gpudrive``, and takes ``sim.selection.max_agents`` null for its 64."""
    checkpoint_every: int = 10
    """Rollouts."""
    data: DataConfig = field(default_factory=DataConfig)
    worlds: WorldsConfig = field(default_factory=WorldsConfig)
    sim: SimConfig = field(default_factory=lambda: SimConfig(reward="weighted_combination"))
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    bc: BCConfig = field(default_factory=BCConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return "gail" in self.algorithm

    @property
    def clones(self) -> bool:
        """Whether experts are cloned."""
        return "bc" in self.algorithm

    @property
    def cloning_steps(self) -> int:
        """Gradient steps of cloning before the first rollout."""
        return self.bc.steps if self.clones else 0

    @property
    def rollout_timesteps(self) -> int:
        """Steps of controlled agents after that."""
        return 0 if self.algorithm == "bc" else self.total_timesteps

    @property
    def environment_weight(self) -> float:
        """Of the environment's own reward."""
        if self.algorithm == "ppo":
            return 1.0
        if self.reward.environment is None:
            return BESIDE_CLONE if self.clones else 0.0
        return self.reward.environment

    def __post_init__(self) -> None:
        disc = self.discriminator
        if disc.compat == "mlagents":
            object.__setattr__(self, "ppo", replace(self.ppo, gamma=disc.mlagents.gamma))
        if self.latent.codes and self.algorithm == "bc":
            raise ValueError(
                "latent.codes are learned from rollouts, which algorithm bc has none of; choose another one"
            )
        if self.seed < 0 or self.total_timesteps < 0 or self.checkpoint_every < 1:
            raise ValueError("seed and total_timesteps must not be negative, checkpoint_every must be positive")
        if self.backend == "gpudrive":
            object.__setattr__(self, "sim", _held_by_gpudrive(self.sim))


def _held_by_gpudrive(sim: SimConfig) -> SimConfig:
    """The rules with as many agents as GPUDrive holds.

    Raises:
        ValueError: when the rules are not GPUDrive's, or ask for more.
    """
    if sim.compat != "gpudrive":
        raise ValueError("backend gpudrive drives by GPUDrive's own rules; set sim.compat to gpudrive too")
    most = sim.selection.max_agents
    if most is not None and most > GPUDRIVE_AGENTS:
        raise ValueError(f"GPUDrive holds {GPUDRIVE_AGENTS} agents a world; lower sim.selection.max_agents ({most})")
    return replace(sim, selection=replace(sim.selection, max_agents=most or GPUDRIVE_AGENTS))
