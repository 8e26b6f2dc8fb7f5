"""The ONNX Runtime backend: training artifacts, and training from them without torch.

What both backends share lies one folder up. May import whatever `backends` may.
"""
