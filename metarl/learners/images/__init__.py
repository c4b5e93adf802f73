"""Networks that embed images for metric and memory learners."""
