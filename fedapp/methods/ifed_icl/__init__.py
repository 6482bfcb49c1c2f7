"""Clients share context vectors and a few coefficients: IFed-ICL."""
