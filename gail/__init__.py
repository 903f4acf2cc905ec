"""Stores to policies: demos, discriminator, PPO, training and evaluation."""
