"""Clients share answers to public prompts; the server votes: FedCoFiT's semantic consensus, FedCT."""
