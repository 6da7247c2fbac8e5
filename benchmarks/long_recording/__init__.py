"""What long recordings cost: in words, in seconds, in memory, and others' time.

    python -m benchmarks.long_recording               # words lost or added by cutting and joining; cost per minute
    python -m benchmarks.long_recording.borders       # whether speech without pauses is cut between two words
    python -m benchmarks.long_recording.memory        # of the ingress, while it answers a recording of six hours
    python -m benchmarks.long_recording.fairness      # how much later short clips are answered beside a giant one
    python -m benchmarks.long_recording.replicas      # one recording on one replica, and spread over two

Each starts the service that it measures. They need `espeak-ng` and `flite`: the recordings are sentences that the demo
checkpoint never saw, spoken by voices that it knows and joined with pauses.
"""
