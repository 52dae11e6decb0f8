"""What to answer to a name that is no setting: the right name, from other software's names or from the spelling."""

import difflib
from collections.abc import Collection

from launcher.settings.entries import dotted


def _by_name(names: dict[str, str]) -> dict[str, str]:
    """From an answer with the names it is for, parted by spaces, to the answer by name."""
    return {name: answer for answer, some in names.items() for name in some.split()}


# Other software's name -> the setting here. A foreign name is refused with its translation: one way to do a thing.
FOREIGN: dict[str, str] = _by_name(
    {
        "run_dir": "output_dir out_dir save_dir run_name experiment_name work_dir",
        "seed": "random_seed manual_seed global_seed",
        "model.vocab_size": "padded_vocab_size n_vocab vocabulary_size",
        "model.hidden_size": "n_embd d_model n_embed dim embed_dim embedding_size model_dim",
        "model.num_hidden_layers": "n_layer n_layers num_layers depth",
        "model.num_attention_heads": "n_head n_heads num_heads",
        "model.num_key_value_heads": "n_kv_head n_kv_heads num_kv_heads num_query_groups n_query_groups",
        "model.head_dim": "kv_channels head_size d_head",
        "model.intermediate_size": "ffn_dim n_inner ffn_hidden_size d_ff mlp_hidden_size ffn_size",
        "model.max_position_embeddings": "n_positions n_ctx max_position max_positions",
        "model.position_embedding": "position_embedding_type pos_emb use_rotary",
        "model.rope_theta": "rotary_base rope_base rotary_emb_base",
        "model.norm": "normalization norm_type norm_class",
        "model.norm_eps": "layer_norm_epsilon layernorm_epsilon rms_norm_eps layer_norm_eps",
        "model.activation": "activation_function hidden_act act_fn mlp_type",
        "model.attention_bias": "qkv_bias add_qkv_bias use_bias bias",
        "model.mlp_bias": "add_bias_linear",
        "model.tie_word_embeddings": "tie_embeddings weight_tying tied_embeddings",
        "model.initializer_range": "init_std init_method_std init_range",
        "data.tokenizer": "tokenizer_path tokenizer_name tokenizer_model tokenizer_name_or_path",
        "data.sources": "data_path train_data train_data_path datasets dataset train_files data_prefix",
        "data.sources.N.weight": "proportion sampling_weight blend_weight mix_weight probability",
        "data.segments": "data_mixture data_mix data_stages mixture_schedule curriculum mixture blend data_blend",
        "data.weighting": "sampling_strategy mixing_strategy mixing_rate_func",
        "data.weighting.temperature": (
            "sampling_temperature mixing_temperature sampling_alpha multinomial_alpha lang_sampling_alpha"
        ),
        "data.skip.steps": "iterations_to_skip skip_iterations skip_batches skip_steps batches_to_skip",
        "data.validation": "valid_data val_data eval_data validation_data val_data_path eval_dataset",
        "data.packing": "pack_sequences sequence_packing sample_packing packing_strategy packed_sequences",
        "data.fim": "fill_in_the_middle infilling",
        "data.fim.rate": "fim_rate",
        "data.fim.spm_rate": "fim_spm_rate",
        "data.fim.prefix": "fim_prefix_token fim_prefix",
        "data.fim.middle": "fim_middle_token fim_middle",
        "data.fim.suffix": "fim_suffix_token fim_suffix",
        "data.separate_documents": (
            "reset_attention_mask reset_position_ids intra_document_masking document_masking block_diagonal_attention"
        ),
        "data.prefetch_batches": "prefetch_factor num_workers dataloader_num_workers",
        "train.steps": "max_steps max_iters train_iters num_steps total_steps num_train_steps training_steps",
        "train.stop_at_step": "exit_interval stop_step stop_after",
        "train.global_batch_size": "train_batch_size total_batch_size effective_batch_size",
        "train.micro_batch_size": (
            "per_device_train_batch_size batch_size device_batch_size train_micro_batch_size_per_gpu local_batch_size"
        ),
        "train.seq_len": "block_size seq_length max_seq_len context_length max_seq_length sequence_length max_length",
        "train.validate_every_steps": "eval_interval eval_steps eval_every val_interval",
        "train.validation_sequences": "eval_iters eval_batches",
        "optimizer.lr": "learning_rate max_lr peak_lr base_lr",
        "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2 adam_betas",
        "optimizer.eps": "adam_eps adam_epsilon",
        "optimizer.weight_decay": "wd decay",
        "optimizer.max_grad_norm": "clip_grad max_norm grad_clip gradient_clipping gradient_clip_val clip_grad_norm",
        "optimizer.schedule.name": "lr_scheduler_type lr_decay_style lr_schedule scheduler decay_lr lr_scheduler",
        "optimizer.schedule.warmup_steps": "warmup_iters lr_warmup_iters num_warmup_steps warmup lr_warmup_steps",
        "optimizer.schedule.min_lr_ratio": "min_lr final_lr eta_min lr_min",
        "optimizer.schedule.decay_steps": "lr_wsd_decay_iters cooldown_steps",
        "engine.name": "strategy backend distributed_backend ddp_backend fsdp use_fsdp",
        "engine.ranks": "nproc_per_node num_gpus devices gpus world_size num_processes n_gpus",
        "engine.device": "device_type accelerator use_cpu no_cuda",
        "engine.precision": "bf16 fp16 fp32 dtype torch_dtype mixed_precision autocast tf32",
        "engine.compile": "torch_compile use_compile",
        "engine.activation_checkpointing": (
            "gradient_checkpointing recompute_activations activation_checkpoint checkpoint_activations"
        ),
        "engine.zero_stage": "zero_optimization zero_optimization_stage zero",
        "engine.deepspeed.raw": "deepspeed_config ds_config deepspeed_json",
        "engine.deepspeed.offload_optimizer": "optimizer_offload cpu_offload_optimizer",
        "engine.deepspeed.offload_parameters": "offload_param param_offload",
        "engine.offload_activations": "activation_offload offload_activation cpu_offloading",
        "engine.bucket_megabytes": "bucket_cap_mb reduce_bucket_size",
        "engine.timeout_seconds": "ddp_timeout distributed_timeout_minutes nccl_timeout",
        "parallel.dp_replicate": "data_parallel_replicate_degree hsdp replicas",
        "parallel.dp_shard": "data_parallel_shard_degree data_parallel_size fsdp_size dp",
        "parallel.tp": "tensor_parallel tensor_model_parallel_size tensor_parallel_size tensor_parallel_degree tp_size",
        "parallel.pp": (
            "pipeline_parallel pipeline_model_parallel_size pipeline_parallel_size pipeline_parallel_degree pp_size"
        ),
        "parallel.pp_schedule": "pipeline_parallel_schedule pipeline_schedule",
        "parallel.pp_stages_per_rank": "virtual_pipeline_model_parallel_size num_virtual_stages_per_pipeline_rank",
        "parallel.cp": "context_parallel context_parallel_size context_parallel_degree cp_size",
        "parallel.cp_method": "context_parallel_rotate_method cp_comm_type",
        "checkpoint.every_steps": "save_interval save_steps save_every checkpoint_interval save_every_steps",
        "checkpoint.keep": "save_total_limit keep_last keep_last_k max_to_keep",
        "checkpoint.permanent_every_steps": "keep_every permanent_save_interval",
        "account": "slurm_account project charge_account",
        "setup": "setup_commands env_command condaenv venv_path module_load prologue",
        "data.partition": "queue slurm_partition",
        "data.time": "time_limit walltime timeout_min",
        "data.workers": "array_size num_jobs n_jobs",
        "data.cpus": "cpus_per_task cpus_per_worker cpus_per_node cores",
        "data.memory": "mem mem_gb mem_per_cpu mem_per_cpu_gb",
        "data.options": "sbatch_args extra_args slurm_additional_parameters",
        "monitor.console_every_steps": "log_interval logging_steps log_every print_every",
        "monitor.tensorboard": "tensorboard_dir report_to use_tensorboard",
        "out": "output_prefix output_folder",
        "sources": "input_folder input",
        "sources.N.text_field": "text_key json_keys text_column",
        "sources.N.id_field": "id_key id_column",
        "sources.N.files": "data_files glob_pattern input_files paths",
        "sources.N.subset": "dataset_config_name dataset_config",
        "sources.N.split": "dataset_split",
        "clean": "filters",
        "clean.N.min_probability": "language_threshold",
        "clean.N.min_words": "min_doc_words",
        "clean.N.max_words": "max_doc_words",
        "clean.N.min_mean_word_length": "min_avg_word_length",
        "clean.N.max_mean_word_length": "max_avg_word_length",
        "clean.N.max_symbols_per_word": "max_symbol_word_ratio",
        "clean.N.max_bullet_lines": "max_bullet_lines_ratio",
        "clean.N.max_ellipsis_lines": "max_ellipsis_lines_ratio",
        "clean.N.min_alphabetic_words": "max_non_alpha_words_ratio",
        "clean.N.max_duplicate_lines": "dup_line_frac",
        "clean.N.max_duplicate_paragraphs": "dup_para_frac",
        "clean.N.max_duplicate_line_characters": "dup_line_char_frac char_duplicates_ratio",
        "clean.N.max_duplicate_paragraph_characters": "dup_para_char_frac",
        "clean.N.max_top_ngram": "top_n_grams",
        "clean.N.max_duplicate_ngrams": "dup_n_grams",
        "clean.N.min_sentences": "min_num_sentences",
        "clean.N.min_punctuated_lines": "line_punct_thr",
        "clean.N.max_short_lines": "short_line_thr",
        "clean.N.short_line": "short_line_length",
        "clean.N.max_newlines_per_word": "new_line_ratio",
        "clean.N.mail": "email_replacement",
        "clean.N.ip": "ip_replacement",
        "deduplicate": "dedup",
        "deduplicate.exact": "exact_dedup exact_deduplication",
        "deduplicate.near": "minhash fuzzy fuzzy_dedup fuzzy_deduplication near_duplicates",
        "deduplicate.near.threshold": "jaccard_threshold similarity_threshold minhash_threshold",
        "deduplicate.near.ngram": "n_grams ngram_size char_ngrams shingle_size",
        "deduplicate.near.bands": "num_buckets num_bands",
        "deduplicate.near.rows": "hashes_per_bucket rows_per_band num_rows",
        "tokenizer.path": "vocab_file",
        "tokenizer.kind": "tokenizer_type",
        "execution.workers": "n_workers",
        "tokens_per_shard": "max_tokens_per_file shard_size",
    }
)

_ACCUMULATION = (
    "is not a setting: accumulation follows from train.global_batch_size / (ranks x train.micro_batch_size); "
    "set those two"
)
_RESUME = "is not a setting: `megamodel train` goes on from the newest good checkpoint in run_dir by itself"
_EPOCHS = "is not a setting: give train.steps; `megamodel config check` says how many epochs that is"
_SEQUENCE = "is not a setting: parallel.tp shares the sequence between the blocks by itself; remove the line"
_HASHES = "is not a setting: there are bands x rows hashes; set these two in deduplicate.near"
_DROPOUT = "is not a setting: there is no dropout; remove the line"

# Names whose meaning does not exist here, with what to do instead; the whole sentence after the name.
ADVICE: dict[str, str] = _by_name(
    {
        _ACCUMULATION: "gradient_accumulation_steps grad_accum accumulate_grad_batches grad_accumulation_steps",
        _RESUME: "resume resume_from_checkpoint load init_from resume_from load_checkpoint",
        _EPOCHS: "num_train_epochs epochs num_epochs max_epochs",
        _SEQUENCE: "sequence_parallel",
        _DROPOUT: "dropout attention_dropout hidden_dropout attn_pdrop resid_pdrop embd_pdrop",
        "is not there yet (expert parallelism); arrange the ranks with parallel.dp_replicate and parallel.dp_shard": (
            "ep expert_parallel expert_model_parallel_size expert_parallel_size num_experts n_experts"
        ),
        "is not there yet; metrics go to RUN/metrics.jsonl and TensorBoard (monitor.tensorboard)": (
            "wandb wandb_project use_wandb wandb_log"
        ),
    }
)


# The same for a preparation of data.
DATA_ADVICE: dict[str, str] = _by_name(
    {
        _HASHES: "num_perm num_permutations num_hashes",
        "is not a setting: every document ends with the tokenizer's end-of-document token; remove the line": (
            "append_eod append_eos"
        ),
        "is not a setting: shards hold whole documents, and a run cuts them with its train.seq_len; remove the line": (
            "seq_length seq_len max_seq_len sequence_length"
        ),
    }
)

# Other software's name of a choice -> the choice here.
CHOICES: dict[str, str] = _by_name(
    {
        "html": "trafilatura resiliparse",
        "encoding": "ftfy",
        "language": "fasttext language_id langdetect",
        "repetition": "gopher_repetition",
        "c4": "c4_quality",
        "fineweb": "fineweb_quality",
    }
)


def advise(key: str, group: str, siblings: Collection[str], all_names: Collection[str]) -> tuple[str, str]:
    """What is wrong with the name `key` in `group`, and the setting that was probably meant, or "".

    `siblings` are the names in the group, `all_names` the dotted names of the whole schema.
    """
    above, _, leaf = key.rpartition(".")
    if any(other.startswith(dotted(group, above) + ".") for other in all_names if above):
        steps = " below ".join(f"`{part}:`" for part in reversed(above.split(".")))
        return f"is written with dots, as only a command line takes it; here write `{leaf}` below {steps}", dotted(
            group, key
        )
    name = key.lower().replace("-", "_")
    elsewhere = sorted((o for o in all_names if o.rpartition(".")[2] == name), key=lambda other: other.count("."))
    if elsewhere:
        return f"is not a setting here; it exists as {' and '.join(elsewhere[:3])}", elsewhere[0]
    if FOREIGN.get(name) in all_names:
        return f"is other software's name; here it is {FOREIGN[name]}{_how(name)}", FOREIGN[name]
    if name in ADVICE and "train.steps" in all_names:
        return ADVICE[name], ""
    if name in DATA_ADVICE and "tokens_per_shard" in all_names:
        return DATA_ADVICE[name], ""
    close = difflib.get_close_matches(name, siblings, n=1)
    if close:
        meant = dotted(group, close[0])
        return f"is not a setting; did you mean {meant}?", meant
    leaves = {other.rpartition(".")[2]: other for other in all_names}
    close = difflib.get_close_matches(name, leaves, n=1, cutoff=0.75)
    if close:
        meant = leaves[close[0]]
        return f"is not a setting; did you mean {meant}?", meant
    return f"is not a setting; {group or 'the top level'} has: {', '.join(sorted(siblings))}", ""


def _how(name: str) -> str:
    """How the value is translated, where it is not the same."""
    return {
        "bf16": " (bf16, fp32 or auto)",
        "fp16": " (bf16, fp32 or auto; fp16 is not there)",
        "fp32": " (bf16, fp32 or auto)",
        "adam_beta1": " (a list of both: [0.9, 0.95])",
        "adam_beta2": " (a list of both: [0.9, 0.95])",
        "beta1": " (a list of both: [0.9, 0.95])",
        "beta2": " (a list of both: [0.9, 0.95])",
        "min_lr": " (as a part of the peak: min_lr / lr)",
        "final_lr": " (as a part of the peak: final_lr / lr)",
        "eta_min": " (as a part of the peak: eta_min / lr)",
        "lr_min": " (as a part of the peak: lr_min / lr)",
        "sampling_alpha": " (1 / alpha, with data.weighting.kind=temperature)",
        "multinomial_alpha": " (1 / alpha, with data.weighting.kind=temperature)",
        "lang_sampling_alpha": " (1 / alpha, with data.weighting.kind=temperature)",
        "max_non_alpha_words_ratio": " (the same number)",
        "top_n_grams": " (a mapping: {2: 0.2, 3: 0.18})",
        "dup_n_grams": " (a mapping: {5: 0.15, 6: 0.14})",
        "language_threshold": " (of the step language)",
        "gradient_checkpointing": " (none, full, every_nth, selective or memory_budget)",
    }.get(name, "")
