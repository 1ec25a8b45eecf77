"""Experiments of four papers on real data, one script each; docs/papers.md has what came out."""
