"""The PyTorch backend: training and scoring, the cut above frozen layers, the last layer for one token only.

What both backends share lies one folder up. May import whatever `backends` may.
"""
