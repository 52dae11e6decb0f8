"""The parts of a block. Tensors carry shape suffixes:

B batch, T tokens, D width, H heads, K key/value heads, C head size, V vocabulary.
"""
