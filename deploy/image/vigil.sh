#!/bin/sh
# `vigil` in the image: its files lie in the Bento.
exec /app/venv/bin/python /app/bento/src/vigil.py "$@"
