"""The settings of a run, as data: read from files and options by :mod:`gail.config.load`.

The docstring of a field is its documentation: docs/configuration.md and the JSON schema are made of them by
:mod:`gail.config.document`. A value that a field cannot have is refused by its type; only what relates several fields
is checked by hand.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.sim.config import GPUDRIVE_AGENTS, SETTINGS, Discount, Probability, ProperFraction, SimConfig
from gail_cli.sim.layout import ObservationConfig

RoleName = Literal["sdc", "track_to_predict", "object_of_interest", "mark_as_expert", "parked", "late"]
"""Names of :class:`~sim.scene.Role`, in small letters."""


@dataclass(frozen=True, config=SETTINGS)
class DemoFilter:
    """Which demos a run learns from. Who takes part in the simulation is up to ``sim.selection``."""

    split: Literal["train", "validation", "test", "all"] = "train"
    """Only scenes of this split, for demos and for worlds; others are not read. A store that was not split is all
    ``train``."""
    types: tuple[Literal["vehicle", "pedestrian", "cyclist", "other"], ...] | None = None
    """Only demos of these agent types; null: of all."""
    roles: tuple[RoleName, ...] = ()
    """Only demos of agents that have all of these roles."""
    without_roles: tuple[RoleName, ...] = ()
    """Only demos of agents that have none of these roles."""
    max_replay_error: NonNegativeFloat | None = None
    """Only demos whose mean distance from the log (``ade_m``) is at most this, m; null: all."""


@dataclass(frozen=True, config=SETTINGS)
class DataConfig(DemoFilter):
    """Which expert demos are read from which stores, and how."""

    stores: tuple[str, ...] = ()
    """Demo stores: folders, .zip files or URLs; those that ``--store`` names come instead."""
    store_weights: tuple[float, ...] = ()
    """How often each store is drawn from compared with the others, for demos and for worlds; all alike when there are
    none."""
    max_scenes: PositiveInt | None = None
    """Learn in and from at most this many scenes of each store, the first ones of the split; null: all."""
    agents: Literal["vehicles", "vru"] = "vehicles"
    """Whom the policy drives: vehicles, or pedestrians and cyclists (vulnerable road users), by displacements. The
    latter needs a store made with ``--agents all``, and ``sim.selection.remove_non_vehicles: false``."""
    weights: Literal["transition", "scene"] = "transition"
    """``transition``: each transition is drawn alike; ``scene``: each scene is, then a transition in it, so that scenes
    with many agents count no more than others."""
    pool_scenes: PositiveInt = 4096
    """Scenes held ready for sampling, some 125 kB each; this bounds memory, whatever the size of the store. Each
    variant of a scene (``augment.variants``) counts as one. See below."""
    rows_per_scene: PositiveInt = 256
    """Rows drawn per scene, on average, before it makes room for another (nothing is replaced if all fit). A real scene
    has some 800 transitions; fewer rows mix better and cost more reading."""
    dynamics: Literal["classic", "bicycle", "delta_local"] | None = None
    """Vehicle model that the store must hold for this run; null: whatever it has. Checked by
    ``gail-cli validate --config``."""
    actions: Literal["discrete", "continuous"] | None = None
    """Kind of actions that the store must hold, likewise."""
    grid: str | None = None
    """Name of the action grid that the store must hold, likewise."""
    grows: bool = False
    """Learn from a store whose extraction still runs, too: scenes join between rollouts as it finishes them, which
    makes a run depend on when it does. Otherwise an unfinished store is refused."""


@dataclass(frozen=True, config=SETTINGS)
class WorldsConfig:
    """Which worlds a rollout visits."""

    mode: Literal["multi_agent", "single_agent"] = "multi_agent"
    """``multi_agent``: a world is a scene, all of whose agents a policy controls at once; ``single_agent``: a world has
    one controlled agent, each of a scene's in turn, and everyone else follows the log."""
    num_worlds: PositiveInt | None = None
    """Worlds simulated side by side, among which a scene may be several times; null: 32, or as many as there are
    scenes if they are not varied (``augment``)."""
    max_single_agent_envs: PositiveInt | None = None
    """In ``single_agent``: the run knows at most this many agents, the first ones of the scenes in an order of the
    seed; neither worlds nor demos are of others. Null: all."""
    rollouts_per_batch: PositiveInt = 1
    """Rollouts before the next scenes come (loaded in the background)."""
    augment: Augmentation | None = None
    """How rollouts' scenes are varied, with keys and defaults of ``augment``; null: as ``augment``."""
    retime: NonNegativeFloat = 0.0
    """Agents that follow their logs drive along their own paths up to this share faster, or slower by the same factor:
    0.2 is between 1/1.2 and 1.2 times as fast. Controlled and parked agents do not."""
    single_agent_share: Probability = 0.0
    """In ``multi_agent``: this share of the worlds has one controlled agent, drawn from the scene's, and everyone else
    follows the log."""

    def __post_init__(self) -> None:
        if self.single_agent_share and self.mode == "single_agent":
            raise ValueError("worlds.single_agent_share needs worlds.mode multi_agent; set that, or leave it out")
        if self.max_single_agent_envs is not None and self.mode != "single_agent":
            raise ValueError("worlds.max_single_agent_envs needs worlds.mode single_agent; set that, or leave it out")


@dataclass(frozen=True, config=SETTINGS)
class NetworkConfig:
    """Sizes of an entity encoder and the layers behind it."""

    entity_hidden: PositiveInt = 32
    """Width of the layers that look at one partner or one road segment."""
    hidden: PositiveInt = 128
    """Width of the layers behind the pooling."""
    layers: PositiveInt = 2
    """Number of layers behind the pooling; the first one takes in what was pooled."""


@dataclass(frozen=True, config=SETTINGS)
class PolicyConfig(NetworkConfig):
    """Sizes of the policy's network; those of the critic's are the same."""

    entity_hidden: PositiveInt = 64
    """Width of the layers that look at one partner or one road segment."""
    hidden: PositiveInt = 256
    """Width of the layers behind the pooling."""
    dropout: ProperFraction = 0.2
    """Share of hidden units left out in cloning. The policy drives, and is improved by PPO, with all of them."""


@dataclass(frozen=True, config=SETTINGS)
class BCConfig:
    """Behaviour cloning before the first rollout, where ``algorithm`` says so."""

    steps: NonNegativeInt = 3000
    """Gradient steps; 0 switches cloning off and starts from a random policy."""
    run: str | None = None
    """Folder of a run whose cloned policy is taken over instead."""
    batch_size: PositiveInt = 512
    """Expert samples per gradient step."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of AdamW at the start; it falls to zero over the steps along a cosine."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay of AdamW, while cloning."""


@dataclass(frozen=True, config=SETTINGS)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017)."""

    learning_rate: PositiveFloat = 3e-4
    """Learning rate of the policy at the start."""
    final_learning_rate: Probability = 0.3
    """Share of it that is left at the end; it falls along a line over ``total_timesteps``."""
    critic_learning_rate: PositiveFloat = 1e-3
    """Learning rate of the critic."""
    gamma: Discount = 0.98
    """Discount per step of 0.1 s."""
    gae_lambda: Probability = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    clip_coef: PositiveFloat = 0.2
    """Epsilon of the clipped objective: how far the ratio of an action's probabilities under the new and the old policy
    may move from 1 before it gives no gradient."""
    update_epochs: PositiveInt = 2
    """Passes over a rollout."""
    target_kl: PositiveFloat | None = 0.03
    """The policy rests for what is left of an update once it has moved this far from the one that drove (mean of
    (r - 1) - ln r over a minibatch, nats, r being the ratio of an action's probabilities); null: it never does."""
    train_encoder: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Agent step from which on rollouts teach the policy's eyes (the networks that look at single entities) too. Until
    then they stay as cloning left them: critic and discriminator look through the same eyes, what was seen is kept, and
    a step costs a fraction. Null: never, if the policy was cloned; from the start otherwise, and where the
    discriminator must look at single entities (``structure: split``, ``compat: mlagents``)."""
    minibatch_size: PositiveInt = 1024
    """Agent steps per minibatch."""
    entropy_coef: NonNegativeFloat = 1e-2
    """Weight of the entropy bonus."""
    max_grad_norm: PositiveFloat = 0.5
    """Gradients are clipped to this norm, policy and critic each."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the policy, with AdamW: weights shrink by the learning rate times this per step."""
    critic_weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the critic, likewise."""
    warmup_iterations: NonNegativeInt = 2
    """First rollouts after cloning in which critic and discriminator learn but the policy does not."""
    bc_coef: NonNegativeFloat = 0.25
    """Weight of the cloning loss on an expert batch beside each policy minibatch, where ``algorithm`` clones; 0
    switches it off."""
    bc_batch_size: PositiveInt = 256
    """Expert samples beside each policy minibatch."""
    bootstrap_truncation: bool = True
    """Value the future of an agent whose time or log ran out; ``false`` treats that as the end."""


@dataclass(frozen=True, config=SETTINGS)
class NetworkSettings:
    """The network of ML-Agents' discriminator, by its names."""

    hidden_units: PositiveInt = 128
    """Width of the hidden layers."""
    num_layers: PositiveInt = 2
    """Number of hidden layers."""
    normalize: bool = False
    """Standardise observations by statistics that follow the experts' minibatches."""
    memory: dict[str, Any] | None = None
    """Ignored, with a warning, as in ML-Agents: its discriminator has no memory."""


@dataclass(frozen=True, config=SETTINGS)
class GAILSettings:
    """ML-Agents' settings of its GAIL reward, by its names; they count where ``discriminator.compat`` is ``mlagents``.

    The rest is constant there: gradient penalty 10, and for VAIL 128 dimensions, I_c 0.5, alpha 5e-4, beta_0 0.
    """

    demo_path: str | None = None
    """The demo store, where the command line names none."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate of Adam."""
    use_actions: bool = False
    """See actions, and with them who is done."""
    use_vail: bool = False
    """Put a variational bottleneck before the last layer."""
    strength: NonNegativeFloat = 1.0
    """Factor on the reward."""
    gamma: Discount = 0.99
    """Discount of the reward per step of 0.1 s; it takes the place of ``ppo.gamma``."""
    network_settings: NetworkSettings = field(default_factory=NetworkSettings)
    """The network."""


@dataclass(frozen=True, config=SETTINGS)
class DiscriminatorConfig:
    """The network that tells expert from policy, and how it learns."""

    compat: Literal["mlagents"] | None = None
    """``mlagents``: network, loss, update and reward are those of ML-Agents, quirks included, with the settings of
    ``discriminator.mlagents``; of this section only the numbers of samples and updates count then, and of ``reward``
    neither ``form`` nor ``clip``."""
    mlagents: GAILSettings = field(default_factory=GAILSettings)
    """ML-Agents' own settings."""
    experts: Literal["matched", "pool"] = "matched"
    """Which experts it, and the cloning loss in rollouts, learn from: ``matched``, the demos of a rollout's own scenes,
    variants and agents, so that it cannot tell scenes apart, each transition alike; ``pool``, any demos, as they are
    cloned before."""
    inputs: Literal["state", "state_action", "state_next_state"] = "state_action"
    """What it looks at. The next state goes through the same encoder."""
    structure: Literal["joint", "split", "airl"] = "joint"
    """How its logit is made: ``joint``, one network over everything; ``split`` (DecompGAIL): an ego-map head, plus the
    weighted mean of an ego-neighbour head that sees one neighbour at a time, so that how neighbours stand to each other
    counts for nothing; ``airl`` (Fu et al. 2018): g + gamma h(s') - h(s) - log pi(a given s), with ``ppo.gamma``."""
    neighbour_weight: NonNegativeFloat = 1.0
    """In ``split``: a in f = f_map + a sum(w f) / max(1, sum(w)), what all neighbours together count against the map. A
    lone far neighbour fades; a crowd is averaged, so its noise does not grow with its size."""
    neighbour_range: PositiveFloat = 10.0
    """In ``split``: b in the weight w = exp(-d / b) of a neighbour whose centre is d away, m: 0.6 at 5 m, 0.2 at 15 m,
    0.02 at 40 m. (DecompGAIL sums with 10 exp(-d / 2.5 m), which falls below 1 at 6 m.)"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Sizes of the network."""
    normalise: bool = True
    """Standardise observations and continuous actions by statistics of the experts, taken once, frozen, and kept in the
    network. Otherwise they keep the scales of the layout."""
    absorbing: bool = False
    """Learn from absorbing states too (Kostrikov et al. 2018), where agents end early (``sim.on_goal``,
    ``sim.on_collision``): a column tells them, and all else of them is zero. Not with ``airl`` or
    ``state_next_state``."""
    dropout: ProperFraction = 0.1
    """Share of hidden units left out while it learns; rewards are given without."""
    spectral_norm: bool = False
    """Hold the largest singular value of each linear layer at 1 (Miyato et al. 2018); LayerNorm, which would undo
    that, is left out."""
    use_vail: bool = False
    """A variational bottleneck before the last layer (VAIL, Peng et al. 2019): a code with noise, whose information
    about the sample has a price beta. Only with ``joint``."""
    vail_z: PositiveInt = 128
    """Dimensions of the bottleneck's code."""
    vail_target_kl: NonNegativeFloat = 0.5
    """I_c, the information that may pass, nats per sample."""
    vail_beta: NonNegativeFloat = 0.0
    """beta_0, the price of information at the start, per nat."""
    vail_beta_step: NonNegativeFloat = 5e-4
    """alpha: beta rises by alpha times the information beyond I_c, after each step, and never falls below zero."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of AdamW."""
    momentum: ProperFraction = 0.5
    """beta_1 of AdamW."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW."""
    batch_size: PositiveInt = 512
    """Samples of experts, and as many of the policy, per gradient step."""
    updates: PositiveInt = 40
    """Gradient steps per rollout."""
    epochs: PositiveInt | None = None
    """Passes over a rollout instead of a number of ``updates``: gradient steps are epochs times samples over batch
    size, rounded up."""
    update_every: PositiveInt = 1
    """Learn only after every so many rollouts."""
    policy_buffer_size: PositiveInt | None = None
    """Learn from the newest samples of the policy, this many, those of earlier policies too; null: from the present
    rollout."""
    min_policy_data: NonNegativeInt = 0
    """Do not learn before there are this many samples of the policy, in the buffer or else in a rollout."""
    gradient_penalty: NonNegativeFloat = 0.0
    """Weight of mean (norm of the logit's gradient - 1)^2 at random interpolates (Gulrajani et al. 2017), by all
    inputs; 0 is off. Observations have scales of 1, on which expert and policy differ by hundredths: a unit slope hides
    that."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """s: labels become 1 - s and s instead of 1 and 0."""
    max_accuracy: Probability = 0.9
    """No further update in a rollout while the balanced accuracy is above this, on the samples of the update or, where
    the store has a ``validation`` split, on demos of its scenes (``discriminator/held_out_accuracy``)."""

    @property
    def needs_entities(self) -> bool:
        """Whether it looks at observations, entity by entity, and no features of other eyes will do."""
        return self.structure == "split" or self.compat is not None

    def __post_init__(self) -> None:
        if self.policy_buffer_size is not None and self.min_policy_data > self.policy_buffer_size:
            raise ValueError("discriminator.policy_buffer_size never holds discriminator.min_policy_data; raise it")
        if self.use_vail and self.structure != "joint":
            raise ValueError("discriminator.use_vail needs one joint network; set discriminator.structure to joint")
        if self.absorbing and self.compat == "mlagents":
            raise ValueError("ML-Agents knows no absorbing states; leave out discriminator.absorbing or .compat")
        if self.absorbing and (self.structure == "airl" or self.inputs == "state_next_state"):
            raise ValueError(
                "discriminator.absorbing tells of one state, not of two; leave out structure airl and state_next_state"
            )


@dataclass(frozen=True, config=SETTINGS)
class RewardConfig:
    """From the discriminator's logit, and the environment's own reward, to the reward."""

    form: Literal["logit", "gail", "airl", "bounded", "dail"] = "logit"
    """Function of the logit x = ln D - ln(1 - D): ``logit``: x; ``gail``: -ln(1 - D); ``airl``: ln D; ``bounded``:
    D - 1/2; ``dail``: D (1 + tanh x) / 2 (``gail/learning/rewards.py``). ``gail`` and ``dail`` are positive and pay for
    staying, ``airl`` is negative and pays for ending, where episodes can end early."""
    clip: PositiveFloat = 10.0
    """The logit is clamped to plus and minus this before the reward is formed."""
    gail: NonNegativeFloat = 0.5
    """Weight of the discriminator's reward; 0: there is no discriminator."""
    events: NonNegativeFloat | None = None
    """Weight of what is paid for events (section ``events``); null: 1 after cloning, and 0 with ``algorithm: gail`` and
    ``ppo``."""
    environment: NonNegativeFloat | None = None
    """Weight of the environment's own reward (``sim.reward``) beside it; null: 1 with ``ppo``, and 0 otherwise."""


@dataclass(frozen=True, config=SETTINGS)
class EventsConfig:
    """What is paid for events of rollouts, beside the discriminator's reward."""

    onset: float = -1.0
    """Reward for the first contact with another agent, and for leaving the road for the first time."""
    again: float = -0.3
    """The same for each later time."""
    each_step: float = -0.05
    """Reward for each step of a contact, and for each step off the road."""
    fault: Probability = 0.3
    """A contact counts by the agent's share in it, but at least this much: its share is that of its own speed towards
    the other in the speed at which both come nearer."""
    red_light: float = 0.0
    """Reward for running a red light, each time."""
    goal: float = 0.5
    """Reward for having been at the goal, paid at the end of the episode, so that nobody hurries for it."""
    box_scale: PositiveFloat | None = 1.0
    """Factor on boxes in rollouts that are paid for events: 1 is the true size. Null: that of evaluations,
    ``sim.box_scale``, which with ``sim.compat: gpudrive`` counts in any case."""


@dataclass(frozen=True, config=SETTINGS)
class MaskingConfig:
    """Entities hidden at random while a policy learns; see :mod:`gail.networks.masking`."""

    roads: Probability = 0.95
    """Each observation lacks a share of its road segments that is uniform between none and this."""
    all_roads: Probability = 0.4
    """Probability that an observation lacks all its road segments."""
    partners: Probability = 0.9
    """Each observation lacks a share of its partners that is uniform between none and this."""
    all_partners: Probability = 0.3
    """Probability that an observation lacks all its partners."""
    rollouts: bool = False
    """Hide entities in rollouts too, and from the discriminator. Otherwise they are hidden in cloning alone: who cannot
    see a car cannot learn to avoid it."""

    @property
    def hides(self) -> bool:
        """Whether anything is ever hidden."""
        return max(self.roads, self.all_roads, self.partners, self.all_partners) > 0


@dataclass(frozen=True, config=SETTINGS)
class LatentConfig:
    """Latent codes, for several ways of driving in one policy (InfoGAIL, Li et al. 2017), which are learned while
    experts are cloned (:mod:`gail.learning.assignment`)."""

    codes: NonNegativeInt = 0
    """Number of codes, at least 2; 0 for none."""
    weight: NonNegativeFloat = 0.05
    """Reward per nat that an action tells of the code."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the posterior, with Adam."""
    batch_size: PositiveInt = 512
    """Samples per gradient step of the posterior."""
    updates: PositiveInt = 20
    """Gradient steps of the posterior per rollout."""
    every: PositiveInt | None = None
    """A manager chooses each agent's code anew every so many steps of 0.1 s, by what it sees; PPO trains it for the
    policy's reward, less that of codes, with the settings of ``ppo`` but for the two below. Null: a code is drawn once
    for an episode."""
    manager_learning_rate: PositiveFloat = 1e-3
    """Learning rate of the manager and of its value, with Adam."""
    manager_entropy_coef: NonNegativeFloat = 0.1
    """Weight of the manager's entropy bonus, which keeps codes in use."""

    def __post_init__(self) -> None:
        if self.codes == 1:
            raise ValueError("latent.codes is 1; it must be 0 or at least 2")
        if self.every is not None and not self.codes:
            raise ValueError("latent.every says when a code is chosen, but there are none; set latent.codes too")


@dataclass(frozen=True, config=SETTINGS)
class WandbConfig:
    """Metrics to Weights & Biases too, under the names that they have everywhere."""

    project: str | None = None
    """Project that the run is logged to; naming one switches logging on."""
    entity: str | None = None
    """Account or team; null: the default one."""
    group: str | None = None
    """Runs of the same group are shown together."""
    name: str | None = None
    """Name of the run; null: that of its folder."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """``online`` sends metrics as they come; ``offline`` writes into the run's folder; ``disabled`` does nothing."""


@dataclass(frozen=True, config=SETTINGS)
class TrainConfig:
    """Everything that decides a run, beside the store."""

    algorithm: Literal["bc+gail", "gail", "bc", "ppo"] = "bc+gail"
    """``bc+gail``: clone, then GAIL with the cloning loss beside it; ``gail``: GAIL from a random policy, nothing
    cloned; ``bc``: clone and stop; ``ppo``: only the environment's reward (``sim.reward``), no discriminator and
    nothing cloned (input statistics are still those of the demos)."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""
    total_timesteps: NonNegativeInt = 1_000_000
    """Steps of controlled agents; the run ends with the first rollout that makes so many."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto`` takes CUDA where there is one."""
    backend: Literal["embedded", "gpudrive"] = "embedded"
    """The simulator that policies drive in: this project's own, or the real GPUDrive, which has to be installed, needs
    ``sim.compat: gpudrive``, and takes ``sim.selection.max_agents`` null for its 64. See docs/gpudrive.md."""
    checkpoint_every: PositiveInt = 10
    """Rollouts from one checkpoint to the next."""
    data: DataConfig = field(default_factory=DataConfig)
    """Expert demos."""
    worlds: WorldsConfig = field(default_factory=WorldsConfig)
    """Worlds of a rollout."""
    sim: SimConfig = field(default_factory=lambda: SimConfig(reward="weighted_combination"))
    """Rules of the simulation."""
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    """Layout of an observation."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Networks of policy and critic."""
    bc: BCConfig = field(default_factory=BCConfig)
    """Behaviour cloning."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Proximal policy optimisation."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network that tells expert from policy."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """From the discriminator's logit to the reward."""
    events: EventsConfig = field(default_factory=EventsConfig)
    """What is paid for events."""
    augment: Augmentation = field(default_factory=Augmentation)
    """How scenes are varied."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Entities hidden at random."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Latent codes."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Metrics to Weights & Biases."""

    @property
    def adversarial(self) -> bool:
        """Whether a discriminator takes part, as it does where its reward counts."""
        return "gail" in self.algorithm and self.reward.gail > 0

    @property
    def matched(self) -> bool:
        """Whether discriminator and cloning learn from the demos of the rollout's own worlds."""
        return "gail" in self.algorithm and self.discriminator.experts == "matched"

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
        """Weight of the environment's own reward."""
        if self.reward.environment is None:
            return float(self.algorithm == "ppo")
        return self.reward.environment

    @property
    def events_weight(self) -> float:
        """Weight of what is paid for events."""
        return float(self.cloned) if self.reward.events is None else self.reward.events

    @property
    def cloned(self) -> bool:
        """Whether the policy is a clone when its rollouts begin."""
        return self.clones and (self.bc.steps > 0 or self.bc.run is not None)

    @property
    def eyes_learn_from(self) -> int | None:
        """Agent step from which on rollouts teach the policy's eyes; None: they never do."""
        if self.ppo.train_encoder is not None:
            return self.ppo.train_encoder
        return None if self.cloned and not self.discriminator.needs_entities else 0

    @property
    def shares_eyes(self) -> bool:
        """Whether critic and discriminator look through the policy's eyes."""
        return self.eyes_learn_from != 0

    @property
    def rollout_sim(self) -> SimConfig:
        """The rules of rollouts."""
        scale = self.events.box_scale
        if scale is None or self.sim.compat is not None or not self.events_weight:
            return self.sim
        return replace(self.sim, box_scale=scale)

    def __post_init__(self) -> None:
        disc = self.discriminator
        if self.adversarial and disc.experts == "pool" and self.worlds.augment is not None:
            raise ValueError(
                "with discriminator.experts pool rollouts are varied as demos are, or a discriminator sees the"
                " difference; leave out worlds.augment"
            )
        if disc.compat == "mlagents":
            object.__setattr__(self, "ppo", replace(self.ppo, gamma=disc.mlagents.gamma))
        if self.shares_eyes and self.adversarial and disc.needs_entities:
            raise ValueError(
                "ppo.train_encoder lets the discriminator look through the policy's eyes, but with structure split or"
                " compat mlagents it looks at single entities; set ppo.train_encoder to 0, or leave it out"
            )
        if disc.policy_buffer_size is not None and self.eyes_learn_from not in (None, 0):
            raise ValueError(
                "discriminator.policy_buffer_size would hold what the eyes made of earlier rollouts, which change with"
                " ppo.train_encoder; leave out one of them"
            )
        if self.rollout_timesteps and not (
            self.adversarial or self.events_weight or self.environment_weight or self.latent.codes
        ):
            raise ValueError(
                "rollouts are paid nothing: reward.gail, reward.events and reward.environment are 0; give one of them a"
                " weight, or choose algorithm bc"
            )
        if self.bc.run is not None and not self.clones:
            raise ValueError(
                f"bc.run is a clone to begin with, but algorithm {self.algorithm} begins with none; leave it out"
            )
        if self.latent.every is not None and self.algorithm == "bc":
            raise ValueError(
                "latent.every is for a manager, which learns from rollouts; algorithm bc has none: leave it out"
            )
        if self.backend == "gpudrive":
            if self.observation.history:
                raise ValueError("backend gpudrive knows no history; leave out observation.history, or drive embedded")
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
        raise ValueError(f"GPUDrive holds {GPUDRIVE_AGENTS} agents per world; lower sim.selection.max_agents ({most})")
    return replace(sim, selection=replace(sim.selection, max_agents=most or GPUDRIVE_AGENTS))
