"""A federation between machines: folders, certificates, keys, and Flower's programs driven with them."""
