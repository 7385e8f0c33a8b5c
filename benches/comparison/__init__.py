"""What `benches/peers.py` is made of: workloads, tools, servers, measurement, report and chart."""
