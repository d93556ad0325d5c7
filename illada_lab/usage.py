"""What the commands are, and how they are used: the texts of `illada-lab help`."""

import importlib

COMMANDS = {
    "reproduce": "the main job: pre-train, fine-tune, evaluate, sample, report",
    "replicate": "test the paper's claims over seeds and write the ledger",
    "prepare": "tokenise a corpus into shards on the disk, to train from with data=shards",
    "train": "one stage of training",
    "evaluate": "score a trained model on the world's questions, or on a benchmark's file",
    "sample": "let a model write",
    "infill": "fill the holes of a text",
    "chat": "talk to a fine-tuned model",
    "report": "a page of a training run, or of several side by side: curves, limits, what differs",
    "trace": "show a trace file, compare two, or make a page of one",
    "export": "write a trained model in a published layout",
    "config": "show the composed configuration and the model's size",
    "plan": "memory, time and cost of a training run before it runs",
    "doctor": "what this machine has, and what would be used",
}
EXAMPLES = {
    "reproduce": ("illada-lab reproduce scale=toy", "illada-lab reproduce scale=smoke seed=1"),
    "replicate": (
        "illada-lab replicate study=sampling",
        "illada-lab replicate experiment=objective scale=toy seeds=5",
        "illada-lab replicate study=sampling,scoring --multirun",
        "illada-lab replicate scale=smoke seeds=1",
    ),
    "prepare": (
        "illada-lab prepare data=text data.path=notes.txt out=prepared",
        "illada-lab prepare data=jsonl data.path=corpus/ data.source.streaming=true tokenizer.vocab_size=32000 out=prepared n_processes=8",
        "illada-lab prepare data=parquet data.path=s3://bucket/corpus data.source.streaming=true init_from=runs/pretrain-1b out=more",
    ),
    "train": (
        "illada-lab train scale=toy model.n_layers=2",
        "illada-lab train experiment=sft scale=toy  (fine-tunes runs/pretrain-toy)",
        "illada-lab train scale=toy resume=auto  (goes on where it was broken off)",
        "illada-lab train data=text data.path=notes.txt scale=toy",
        "illada-lab train data=shards data.path=prepared scale=small",
        "illada-lab train data=shards data.path=[web,code] data.source.weights=[0.7,0.3] scale=small",
        "illada-lab train scale=smoke model.n_layers=1,2 seed=0,1 --multirun",
        "illada-lab train scale=smoke lr.peak_ratio=0.1,0.3,1 --multirun  (the learning rates of all parts of the optimiser)",
    ),
    "evaluate": (
        "illada-lab evaluate checkpoint=runs/sft-toy",
        "illada-lab evaluate checkpoint=runs/pretrain-toy scale=smoke",
        "illada-lab evaluate tasks=gsm8k data.path=test.jsonl checkpoint=runs/pretrain-small",
        "illada-lab evaluate tasks=humaneval data.path=HumanEval.jsonl.gz evaluation.run_code=true checkpoint=runs/pretrain-small",
    ),
    "sample": (
        "illada-lab sample checkpoint=runs/pretrain-toy sampler.temperature=1 n_samples=4",
        "illada-lab sample checkpoint=runs/sft-toy sampler=variable_length prompt='what did ada write ?'",
    ),
    "chat": (
        "illada-lab chat checkpoint=runs/sft-toy",
        "illada-lab chat checkpoint=runs/sft-toy sampler.temperature=0.5",
    ),
    "infill": (
        "illada-lab infill checkpoint=runs/pretrain-toy text='ada lives in ___ .'",
        "illada-lab infill checkpoint=runs/pretrain-toy text='on monday ___*5 .' sampler.temperature=1",
    ),
    "report": (
        "illada-lab report runs/pretrain-toy",
        "illada-lab report runs/pretrain-toy runs/shallow out=depth.html",
        "illada-lab report runs/pretrain-mini/*/  (the runs of a sweep)",
    ),
    "trace": (
        "illada-lab trace show story.jsonl",
        "illada-lab trace diff exact.jsonl cached.jsonl",
        "illada-lab trace html story.jsonl story.html",
    ),
    "export": (
        "illada-lab export checkpoint=runs/plain out=exported  (trained with model.has_qk_norm=false)",
        "illada-lab export checkpoint=runs/plain layout=llada out=exported-llada",
        "illada-lab export checkpoint=runs/pretrain-toy layout=qwen3 out=exported-qwen3  (what transformers reads by itself)",
    ),
    "config": (
        "illada-lab config scale=8b",
        "illada-lab config sampler  (the choices of a group)",
        "illada-lab config sampler/fast  (its file, with what each setting means)",
    ),
    "plan": (
        "illada-lab plan scale=toy",
        "illada-lab plan scale=8b device=h200 trainer.devices=64",
        "illada-lab plan scale=1b data=hub data.path=owner/name plan.mfu=0.5 plan.n_tokens=20e9 --json",
    ),
    "doctor": ("illada-lab doctor", "illada-lab doctor scale=1b --json"),
}
FLAGS = {
    "--traceback": "show the traceback of an error",
    "--multirun": "run every combination of comma-separated values (also -m)",
    "--json": "doctor, plan, sample, infill, chat, report: print JSON",
}
TAKE_FILES = ("trace", "report")  # names of files and folders, no settings


def usage(command: str | None = None) -> str:
    """Help text of a command, or of all."""
    if command in TAKE_FILES:
        module = importlib.import_module(f"illada_lab.commands.{command}")
        uses = "\n".join(f"  illada-lab {line}" for line in module.USES.values())
        examples = "\n".join(f"  {line}" for line in EXAMPLES[command])
        return f"illada-lab {command}: {COMMANDS[command]}\n\n{uses}\n\nExamples:\n{examples}"
    if command in COMMANDS:
        examples = "\n".join(f"  {line}" for line in EXAMPLES[command])
        return (
            f"illada-lab {command} [key=value ...] [flags]: {COMMANDS[command]}\n\nExamples:\n{examples}\n\n"
            "Settings: illada-lab config shows all with their values, illada-lab config sampler/fast what each means."
        )
    listed = "\n".join(f"  {name:11}{text}" for name, text in COMMANDS.items())
    flags = "\n".join(f"  {name:13}{text}" for name, text in FLAGS.items())
    more = "illada-lab <command> --help shows examples"
    return f"illada-lab <command> [key=value ...] [flags]\n\n{listed}\n\n{flags}\n\n{more}"
