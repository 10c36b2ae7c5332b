"""Handles on the folders that stages write; opening one checks the folder against its manifest."""
