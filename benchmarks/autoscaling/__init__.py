"""What an autoscaling policy does to a fleet of replicas: replicas, waiting, cost. Nothing is served.

Ray Serve's own decision logic runs here, with its delays, averaging and reports, on a clock that jumps; only the
replicas and their callers are simulated.
"""
