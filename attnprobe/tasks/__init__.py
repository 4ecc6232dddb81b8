"""Datasets anyone can make again: number sequences, maths problems, and the styles they come in."""
