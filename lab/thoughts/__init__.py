# SPDX-License-Identifier: Apache-2.0
"""How well attention's sparsity tells kinds of thought whose truth is known: README.md."""
