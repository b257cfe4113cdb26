"""Pure array functions on JAX alone: capsules, routing, canonical frames, convolutions."""
