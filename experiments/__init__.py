"""The experiments of the paper's sections 5.2 and 5.3, one command per panel of a figure."""
