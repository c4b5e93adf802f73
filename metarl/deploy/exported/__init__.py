"""Exported adaptations, run by ONNX Runtime without the learner."""
