"""The driving world: scenes, dynamics, observations and the batched simulator."""
