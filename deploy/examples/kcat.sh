#!/bin/sh
# Prints alerts from Kafka, one a line: deploy/examples/kcat.sh 127.0.0.1:9092 vigie.alerts.v1 (needs kcat)
# -e ends at the last message; leave it out to wait for more. %h are the CloudEvents attributes, %s the GeoJSON Feature.
exec kcat -C -q -e -b "$1" -t "$2" -o beginning -f 'key=%k %h\n%s\n'
