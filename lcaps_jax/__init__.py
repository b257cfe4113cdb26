"""Ladder Capsule Network in JAX."""
