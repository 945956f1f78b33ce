# SPDX-License-Identifier: Apache-2.0
"""A simulation of cache policies, teacher-forced: README.md says what that leaves out."""
