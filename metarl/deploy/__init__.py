"""From a finished run to a robot: adapters, exports, and runs to share."""
