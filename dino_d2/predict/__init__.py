# SPDX-License-Identifier: Apache-2.0
"""A trained model on images, folders, videos and webcams: detections drawn and written to files."""
