"""The demo model: `qwen3_asr` at 3 million parameters, and its processor with the released prompt."""

from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from benchmarks.demo_checkpoint import tokenizer as tokens

# One system turn (the context, empty by default), one user turn of audio, the assistant's answer.
CHAT_TEMPLATE = """\
{%- macro text_of(message) -%}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|im_start|>system\\n' -}}
{%- for message in messages if message.role == 'system' -%}{{- text_of(message) -}}{%- endfor -%}
{{- '<|im_end|>\\n<|im_start|>user\\n' -}}
{%- for message in messages if message.content is not string -%}
{%- for part in message.content if part.type == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- endfor -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- for message in messages if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}{{- text_of(message) + '<|im_end|>\\n' -}}{%- endgeneration -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_processor() -> Qwen3ASRProcessor:
    """The released feature extractor and prompt around the small tokenizer."""
    return Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor(), tokenizer=tokens.build(), chat_template=CHAT_TEMPLATE
    )


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen3ASRForConditionalGeneration:
    """A randomly initialised model whose token ids are those of `tokenizer`."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_added_vocab()}
    end_of_text, im_end = ids[tokens.END_OF_TEXT], ids[tokens.IM_END]
    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "d_model": 192,
            "encoder_layers": 4,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 576,
            "downsample_hidden_size": 24,
            "output_dim": 192,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": -(-len(tokenizer) // 16) * 16,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "max_position_embeddings": 8192,
            # Positions here are seconds, not books: a short base tells neighbouring frames apart.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": im_end,
            "pad_token_id": end_of_text,
        },
        audio_token_id=ids[tokens.AUDIO_PAD],
        timestamp_token_id=ids[tokens.TIMESTAMP],
        pad_token_id=im_end,
        eos_token_id=[end_of_text, im_end],
    )
    model = Qwen3ASRForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[end_of_text, im_end], pad_token_id=im_end, do_sample=False, max_new_tokens=512
    )
    return model
