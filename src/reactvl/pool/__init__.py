"""The pool: shards of image-text pairs, their catalogue, reads by offset, decoding, and writing shards."""
