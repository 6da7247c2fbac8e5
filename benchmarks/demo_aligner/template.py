"""The forced aligner's prompt as a chat template: the audio, then every word with two places for its times."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text + '<timestamp><timestamp>' -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""
