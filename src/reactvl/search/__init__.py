"""Nearest rows of float16 matrices: exact top-k, FAISS indexes, recall. Knows arrays, no folders."""
