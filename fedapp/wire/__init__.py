"""The one place where Flower's records are packed and unpacked."""
