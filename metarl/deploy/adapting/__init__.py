"""What `metarl adapt` does with data, images or an environment."""
