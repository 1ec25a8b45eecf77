"""Experiments of four papers on real data, one script each; docs/papers has what came out."""
