"""Chat templates that write what ChatML's, Llama-3's and Qwen3's do, and a tokenizer of whole words to see it in."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = """{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# tags around content, end of turn and the newline behind it, as SmolLM3's
CHATML_TAGGED = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message.content + '<|im_end|>\n' }}{% endgeneration %}
{%- else %}{{- message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}{% for message in messages %}
{%- if loop.index0 and message.role == 'user' and messages[loop.index0 - 1].role == 'user' %}
{{- raise_exception('roles must alternate') }}{% endif %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# reasoning stays behind the last question only; there an answer without any gets an empty one
QWEN3 = """{%- if tools %}{{- '<|im_start|>system\ntools' }}
{%- for tool in tools %}{{- '\n' + tool.function.name }}{% endfor %}{{- '<|im_end|>\n' }}{% endif %}
{%- set seen = namespace(question=messages | length - 1) %}
{%- for message in messages %}{% if message.role == 'user' %}
    {%- set seen.question = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
    {%- set text = message.content or '' %}
    {%- set thought = message.reasoning_content or '' %}
    {%- if not thought and '</think>' in text %}
        {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set text = text.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\n' }}
    {%- if loop.index0 > seen.question and (loop.last or thought) %}
        {{- '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
    {{- text }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n' + call.function.name + '\n</tool_call>' }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
    {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# the prompt opens the thought, answers are written without theirs, an end of turn that is no end of text: DeepSeek-R1's
R1 = """{%- for message in messages %}{% if message.role == 'user' %}{{- '<|im_start|>' + message.content }}
{%- elif message.role == 'assistant' %}
{{- '<|start_header_id|>' + message.content.split('</think>')[-1] + '<|im_end|>' }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{- '<|start_header_id|><think>\n' }}{% endif %}"""

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
PLAIN = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
WORDS = r" ?\w+|\n+| ?[^\w\s]+|\s"  # newlines that touch are one token, as in real vocabularies


def make_tokenizer(template, text, end="<|im_end|>", special_thoughts=False):
    """A tokenizer whose tokens are the words of `text`, newlines and the markers of all templates."""
    words = sorted({*text.split(), "system", "user", "assistant", "Be", "kind", "tools", "x"})
    known = ["<unk>", *SPECIAL, *PLAIN, "\n", "\n\n", *words, *(f" {word}" for word in words)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(known))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token=end,
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|begin_of_text|>", end)],
    )
    tokenizer.add_tokens(PLAIN, special_tokens=special_thoughts)
    tokenizer.chat_template = template
    return tokenizer
