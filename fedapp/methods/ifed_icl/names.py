"""What clients and server of IFed-ICL call what they send each other."""

WANTED = "wanted"
"""In a download: names of arrays that the client is to send along."""
MISSING = "labels-without-examples"
"""A metric: how many labels of the benchmark the client has no example of."""
READ_BY = ("injection", "fusion", "demonstration")
"""Settings of the adapter without which vectors and coefficients mean something else."""
WIRE_DTYPES = ("float16", "bfloat16", "float32")
"""Types that vectors may have on the wire."""
