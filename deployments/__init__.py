"""An OpenAI-compatible speech-to-text service for the Qwen3-ASR models, as a Ray Serve application."""
