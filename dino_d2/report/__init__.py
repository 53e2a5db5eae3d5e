# SPDX-License-Identifier: Apache-2.0
"""A report of what a detector finds and misses: numbers in report.json, and a web page that stands alone."""
