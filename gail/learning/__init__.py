"""What learns: trainer, adversary, rewards, PPO, run folder."""
