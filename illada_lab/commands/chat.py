"""`illada-lab chat`: talk to a fine-tuned model."""

from omegaconf import DictConfig


def run(config: DictConfig) -> int:
    """Read questions line by line until an empty one or the end of the input; the last `n_turns` turns stay in the conversation."""
    import torch

    from illada_lab.commands.sample import is_chat, load
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.evaluation.generation import generate
    from illada_lab.samplers import VariableLength

    loaded = load(config)
    if not is_chat(loaded.config):
        raise ValueError(
            f"checkpoint = {config.checkpoint}; a base model, which does not answer; one of experiment=sft"
        )
    chat = ChatTemplate(loaded.tokenizer)
    # Answers end where they end: fixed-length sampling would need their length.
    sampler = VariableLength(max_length=32, block_length=8, temperature=config.sampler.temperature)
    generator = torch.Generator().manual_seed(config.seed)
    turns: list[dict[str, str]] = []
    print("an empty line ends the conversation; /new forgets it")
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            break
        if not said:
            break
        if said == "/new":
            turns = []
            continue
        try:
            prompt = chat.prompt([*turns, {"role": "user", "content": said}])
            written, _ = generate(loaded.predictor, loaded.tokenizer, [prompt], sampler, generator=generator)
        except ValueError as error:
            print(f"({error})")
            continue
        print(written[0].text)
        if written[0].text:
            turns += [{"role": "user", "content": said}, {"role": "assistant", "content": written[0].text}]
            turns = turns[len(turns) - 2 * config.n_turns :]
    return 0
