"""Training and evaluation of a network on a data set that lies on the devices."""
