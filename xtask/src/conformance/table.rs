//! The hazards and the tests of ours that fail when one comes back.

use super::Hazard;

/// Every hazard, in the order of its number.
pub const HAZARDS: [Hazard; 35] = [
    Hazard {
        title: "cutting a batch changes nothing",
        harm: "Gradient accumulation that averages averages gives long and short rows wrong weights, so that loss, \
               gradient and metrics depend on the micro-batch that happens to fit into memory.",
        peers: "trl#2615, #2617, #6439, #6478",
        tests: &[
            "align-losses tests/all/conformance.rs losses_gradients_and_metrics_of_pairs_do_not_depend_on_the_cut",
            "align-losses tests/all/conformance.rs losses_gradients_and_metrics_of_labels_do_not_depend_on_the_cut",
            "align-losses tests/all/conformance.rs losses_gradients_and_metrics_of_una_do_not_depend_on_the_cut",
            "align-losses tests/all/objectives.rs with_masks_the_answer_does_not_depend_on_the_cut",
            "align-train tests/all/engine.rs the_result_does_not_depend_on_micro_batches_or_threads",
            "align-train tests/all/coupled.rs the_result_does_not_depend_on_micro_batches_or_threads",
            "align-cli tests/all/runs.rs the_result_does_not_depend_on_micro_batches",
        ],
        later: "",
    },
    Hazard {
        title: "metrics are weighted by what they count",
        harm: "A metric averaged per worker and then over workers is biased as soon as the workers have unequal \
               numbers of rows or tokens.",
        peers: "trl#6380",
        tests: &[
            "align-train tests/all/engine.rs the_result_does_not_depend_on_micro_batches_or_threads",
            "align-train tests/all/coupled.rs the_result_does_not_depend_on_micro_batches_or_threads",
            "align-core src/objective.rs a_kind_of_rows_that_is_absent_adds_nothing",
            "align-train src/totals.rs a_summand_without_items_is_not_reported",
        ],
        later: "training on several machines (threads share one process today)",
    },
    Hazard {
        title: "KTO with odd batches and batches of one",
        harm: "The baseline of KTO pairs answers with prompts that are not theirs; written for even batches it pairs \
               wrong rows, or an answer with its own prompt, and nobody sees it in the loss.",
        peers: "trl#1911, #2554; LlamaFactory#7509",
        tests: &[
            "align-losses tests/all/coupled.rs mismatched_pairs_are_those_of_trl",
            "align-losses tests/all/coupled.rs answers_of_one_prompt_are_mismatched_with_another_prompt",
            "align-losses tests/all/coupled.rs labels_with_a_baseline_of_the_batch",
            "align-losses tests/all/coupled.rs batches_of_one_label_are_finite",
            "align-cli tests/all/conformance.rs kto_trains_with_odd_batches_and_batches_of_one",
            "align-cli tests/all/trl.rs three_full_batch_steps_follow_trl",
        ],
        later: "",
    },
    Hazard {
        title: "the end token is there once and is trained on",
        harm: "Padding that is recognised by its token hides the end of every answer when the two are one token, and \
               the model never learns to stop; a template and a loader that both append it teach it twice.",
        peers: "trl#6357, #7097, #4481, #4908",
        tests: &[
            "align-data tests/all/conformance.rs an_end_that_is_the_padding_too_is_there_once_and_trained_on",
            "align-data tests/all/tokenise.rs special_tokens_are_there_once",
            "align-data tests/all/tokenise.rs tokens_are_those_of_trl",
            "align-losses tests/all/objectives.rs masks_leave_tokens_out_of_the_loss",
            "align-lm tests/all/heads.rs the_padding_is_never_the_end",
        ],
        later: "",
    },
    Hazard {
        title: "the beginning token is there once",
        harm: "A template that writes the token and a tokenizer that adds it again shift every position and show the \
               model a text it has never seen.",
        peers: "axolotl#1616",
        tests: &[
            "align-data tests/all/tokenise.rs special_tokens_are_there_once",
            "align-data tests/all/tokenise.rs tokens_are_those_of_trl",
            "align-data tests/all/sentencepiece.rs a_written_prefix_of_chatglm_is_there_once",
        ],
        later: "",
    },
    Hazard {
        title: "the prompt's tokens are the beginning of the row's tokens",
        harm: "Prompt and answer that are tokenised apart miss merges across their boundary; a wrong split trains on \
               a piece of the prompt or drops the first tokens of an answer.",
        peers: "trl#6433, #2054, #1073, #1591, #2385",
        tests: &[
            "align-data tests/all/load.rs joined_tokens_are_those_of_the_whole_text",
            "align-data tests/all/load.rs cutting_and_merging_are_reported",
            "align-data src/tokenise.rs answers_begin_where_the_first_of_them_diverges",
            "align-data tests/all/tokenise.rs tokens_are_those_of_trl",
        ],
        later: "",
    },
    Hazard {
        title: "cutting never removes all of an answer",
        harm: "A row whose prompt fills the limit has no answer left: its loss is 0 or not a number, and the row counts \
               in the average.",
        peers: "",
        tests: &[
            "align-data tests/all/load.rs limits_hold_and_no_answer_is_emptied",
            "align-data tests/all/load.rs cutting_and_merging_are_reported",
            "align-data src/tokenise.rs keep_start_cuts_the_end_of_the_answers",
            "align-data src/tokenise.rs keep_end_cuts_the_beginning_of_the_prompt",
            "align-data src/tokenise.rs cutting_takes_the_mask_along_and_drops_rows_of_which_nothing_is_trained",
            "align-data tests/all/masks.rs rows_cut_before_the_assistant_speaks_are_dropped",
        ],
        later: "",
    },
    Hazard {
        title: "chat templates render as the reference renders them",
        harm: "A template engine that differs in a space, in a tool call or in what it keeps of earlier reasoning trains \
               on another format than the one that is served.",
        peers: "trl#6363",
        tests: &[
            "align-data tests/all/templates.rs rendering_is_equal_to_transformers",
            "align-data tests/all/templates.rs the_templates_of_families_render_as_in_transformers",
            "align-data tests/all/templates.rs marked_blocks_are_where_transformers_finds_them",
        ],
        later: "",
    },
    Hazard {
        title: "without its adapter a model is its base",
        harm: "A reference that still carries the adapter, or another one, makes the KL wrong from the first step on.",
        peers: "trl#4309, #6043, #6591, #6053",
        tests: &[
            "align-lm tests/all/lora.rs log_probabilities_are_those_of_peft",
            "align-lm tests/all/lora.rs a_new_adapter_changes_nothing_and_is_all_that_is_trained",
            "align-lm tests/all/lora.rs copies_and_bases_stay_as_they_were",
            "align-losses tests/all/objectives.rs the_first_loss_is_ln_2_and_anything_else_is_refused",
            "align-losses tests/all/coupled.rs a_coupled_loss_at_the_reference_is_ln_2",
            "align-cli tests/all/lora.rs an_adapter_is_trained_used_trained_on_and_merged",
        ],
        later: "",
    },
    Hazard {
        title: "the reference stays as it is",
        harm: "A reference that shares leaves with the policy is trained along with it, one that drops inputs is noise, \
               and a second copy of the weights takes memory that nobody accounts for.",
        peers: "trl#4309, #6043",
        tests: &[
            "align-losses tests/all/objectives.rs the_reference_is_not_trained",
            "align-lm tests/all/models.rs frozen_models_have_no_parameters_and_do_not_follow_the_trained_one",
            "align-lm tests/all/lora.rs references_drop_nothing_while_the_policy_does",
            "align-lm tests/all/lora.rs copies_and_bases_stay_as_they_were",
            "align-lm tests/all/recompute.rs frozen_models_record_nothing",
        ],
        later: "",
    },
    Hazard {
        title: "rewards that are missing, zero, or no numbers",
        harm: "A score of 0 taken for a missing one, one number spread over a whole list, or a NaN in one row corrupts \
               the advantages of a batch while the run goes on.",
        peers: "trl#6533, #6534, #5775; ms-swift#8123; OpenRLHF#1219",
        tests: &[
            "align-data tests/all/kinds.rs bad_labels_and_scores_are_named_from_the_first_row_on",
            "align-data tests/all/kinds.rs scores_are_rewards",
            "align-losses tests/all/una.rs scores_are_scaled_and_those_outside_are_named_with_the_range",
            "align-losses tests/all/coupled.rs numbers_that_are_none_are_named",
            "align-rm tests/all/properties.rs scores_that_are_no_numbers_are_refused_with_the_row",
            "align-rm tests/all/ensembles.rs members_must_have_a_zero_and_a_scale_in_common",
            "align-types src/reward.rs nothing_but_promised_scores_comes_through",
            "align-rules tests/all/rules.rs a_reward_that_breaks_its_promise_is_an_error_that_names_the_row",
            "align-rules tests/all/math.rs references_without_an_answer_abstain_and_missing_ones_are_errors",
            "align-rules tests/all/rules.rs a_sum_abstains_with_its_parts_and_never_says_zero",
            "align-rules tests/all/program.rs anything_else_than_an_answer_is_an_error_that_names_the_row",
            "align-cli tests/all/bad_input.rs nan_in_a_later_step_stops_after_a_checkpoint_and_names_the_rows",
            "align-ppo tests/all/iteration/failures.rs rewards_that_cannot_be_used_are_named_before_any_weight_changes",
            "align-ppo tests/all/iteration/failures.rs scores_that_are_too_few_are_refused",
            "align-ppo tests/all/estimates.rs an_abstention_is_left_out_and_never_a_zero",
            "align-ppo tests/all/hostile.rs numbers_that_are_none_are_named_with_their_row",
        ],
        later: "",
    },
    Hazard {
        title: "the logged reward is the optimised reward",
        harm: "A reward that is logged before its weight, or of other tokens than the loss sees, explains the run \
               wrongly.",
        peers: "trl#5352, #5353",
        tests: &[
            "align-losses tests/all/conformance.rs logged_rewards_are_those_of_the_loss",
            "align-rm tests/all/properties.rs logged_rewards_are_those_of_the_loss",
            "align-cli tests/all/eval.rs weights_add_rewards_up",
            "align-ppo tests/all/phases.rs metrics_of_an_iteration",
            "align-ppo tests/all/iteration/practices.rs the_reference_answers_beside",
        ],
        later: "",
    },
    Hazard {
        title: "log-probabilities of sampling are those of training",
        harm: "Two engines that differ in rounding, temperature or filters make the importance ratio something else \
               than 1 before the first update, and training drifts.",
        peers: "trl#6789, #3867, #4772; verl#2953, #3694",
        tests: &[
            "align-rollout tests/all/generator.rs log_probs_are_those_of_the_training_forward",
            "align-rollout tests/all/engine.rs log_probs_are_those_of_the_training_forward",
            "align-rollout tests/all/llama.rs log_probs_are_those_of_the_training_forward",
            "align-rollout tests/all/sampling.rs log_probs_are_those_before_filtering",
            "align-rollout tests/all/engine.rs repacking_takes_the_weights_as_they_are",
            "align-rollout tests/all/engine.rs adapters_are_sampled_from_as_they_are_trained",
            "align-rollout src/engine/tests/forward.rs logits_are_those_of_the_training_forward",
            "align-ppo tests/all/iteration/mod.rs sampling_one_step_ahead_learns_too_and_says_how_far_it_is_off",
        ],
        later: "",
    },
    Hazard {
        title: "stop strings that lie across tokens",
        harm: "A stop string that is looked for token by token is missed when it begins in one and ends in another, and \
               the answer runs on.",
        peers: "trl#3250, #3410",
        tests: &[
            "align-rollout tests/all/generator.rs completions_end_at_stop_tokens_stop_strings_and_limits",
            "align-rollout tests/all/engine.rs completions_end_at_stop_tokens_stop_strings_and_limits",
            "align-rollout src/stop.rs the_tail_suffices",
            "align-rollout src/stop.rs the_tail_is_short_and_late_stops_are_found",
        ],
        later: "",
    },
    Hazard {
        title: "finished samples do not change others",
        harm: "A batch in which ended rows keep consuming random numbers, or leave padding in the cache, gives samples \
               that depend on their neighbours.",
        peers: "",
        tests: &[
            "align-rollout tests/all/generator.rs finished_samples_do_not_change_others",
            "align-rollout tests/all/generator.rs samples_do_not_depend_on_other_prompts_or_on_their_number_per_prompt",
            "align-rollout tests/all/engine.rs samples_do_not_depend_on_slots_threads_or_how_a_list_is_cut",
            "align-rollout src/engine/tests/forward.rs logits_have_the_same_bits_alone_and_among_others",
        ],
        later: "",
    },
    Hazard {
        title: "the value head is saved with its model",
        harm: "A head that is left out of the saved folder starts anew from random numbers, and the critic is lost \
               without an error.",
        peers: "trl#381",
        tests: &["align-lm tests/all/heads.rs value_heads_are_read_back_bit_by_bit"],
        later: "",
    },
    Hazard {
        title: "a reloaded reward model gives the same scores",
        harm: "Scores that become random after saving and loading are noticed only by what the policy learns from them.",
        peers: "trl#381",
        tests: &[
            "align-lm tests/all/heads.rs what_is_saved_is_byte_equal_to_what_was_loaded",
            "align-lm tests/all/heads.rs a_fresh_head_goes_on_every_family_and_is_read_back",
            "align-lm tests/all/heads.rs scores_are_those_of_transformers",
        ],
        later: "",
    },
    Hazard {
        title: "fast paths compute what plain paths compute",
        harm: "A fused kernel or a recomputed pass with a mistake gives a plausible loss and a wrong gradient.",
        peers: "trl#5731",
        tests: &[
            "align-lm tests/all/recompute.rs gradients_are_those_of_kept_activations",
            "align-lm tests/all/recompute.rs several_passes_may_meet_in_one_loss",
            "align-lm tests/all/models.rs log_probabilities_are_those_of_transformers",
            "align-lm src/attention.rs many_long_completions_are_attended_one_by_one",
            "align-train tests/all/adamw.rs both_ways_of_updating_agree",
            "align-train tests/all/adamw.rs eight_steps_are_those_of_pytorch",
            "align-losses tests/all/python_numbers.rs losses_of_pairs",
            "align-rollout tests/all/engine.rs samples_are_those_of_the_tensor_backend",
        ],
        later: "",
    },
    Hazard {
        title: "packed rows compute what padded rows compute",
        harm: "Rows that share a sequence and see each other, or positions that go on counting, change the loss a little \
               and the model a lot.",
        peers: "trl#5076",
        tests: &[
            "align-lm tests/all/models.rs packed_groups_are_separate_rows_in_values_and_gradients",
            "align-lm tests/all/models.rs grouping_and_order_change_nothing",
            "align-lm tests/all/heads.rs packed_groups_are_separate_rows_in_scores_and_gradients",
            "align-core src/packed.rs completions_continue_from_the_prompt_and_do_not_see_each_other",
            "align-core src/padded.rs padded_logits_come_back_in_the_packed_order",
            "align-losses tests/all/objectives.rs masks_leave_tokens_out_of_the_loss",
        ],
        later: "",
    },
    Hazard {
        title: "long pairs in 32 bits",
        harm: "The sum of thousands of log-probabilities in float32 is off by more than the margin of a pair, so that \
               long answers are ranked by rounding.",
        peers: "",
        tests: &[
            "align-losses tests/all/properties.rs long_answers_keep_the_margin_that_the_loss_sees",
            "align-core src/logprobs.rs sums_of_long_answers_keep_small_differences",
        ],
        later: "",
    },
    Hazard {
        title: "tied embeddings are saved once and loaded twice",
        harm: "A tied matrix that is written under two names comes back as two, and one of them is trained; one that is \
               written once and looked for twice is random.",
        peers: "",
        tests: &[
            "align-lm tests/folders.rs shards_become_one_file_and_tying_is_kept",
            "align-lm tests/folders.rs what_is_saved_is_byte_equal_to_what_was_loaded",
            "align-lm tests/all/models.rs parameters_have_the_names_of_the_checkpoint",
        ],
        later: "",
    },
    Hazard {
        title: "a merged adapter computes as before",
        harm: "A merge with a wrong scale, or into 4 bits, gives a model that answers differently from the one that was \
               trained.",
        peers: "",
        tests: &[
            "align-lm tests/all/lora.rs log_probabilities_are_those_of_peft",
            "align-lm tests/all/lora.rs a_merged_model_is_saved_as_its_base_was",
            "align-lm tests/all/qlora.rs merging_into_4_bits_makes_float32_of_what_was_computed",
            "align-cli tests/all/lora.rs an_adapter_is_trained_used_trained_on_and_merged",
        ],
        later: "",
    },
    Hazard {
        title: "adapters are folders of PEFT",
        harm: "An adapter that only its own program can read is lost to every server and every merge tool. \
               `fixtures/lora/make.py` makes adapters with PEFT that we read; `fixtures/lora/check_saved.py` reads ours \
               with PEFT.",
        peers: "",
        tests: &[
            "align-lm tests/all/lora.rs log_probabilities_are_those_of_peft",
            "align-lm tests/all/lora.rs what_is_saved_is_loaded_bit_by_bit",
            "align-lm tests/all/lora.rs what_peft_can_do_beside_is_refused_by_name",
        ],
        later: "",
    },
    Hazard {
        title: "a resumed run ends with the same bits",
        harm: "A resumption that restores the weights and forgets the order of the rows, the schedule, the moments, what \
               the objective carries along or the best value so far, trains another model under the same name.",
        peers: "OpenRLHF#1103, #928; trl#3179, #3635, #1643, #2444; ms-swift#6049, #8047; LlamaFactory#7538, #8715; \
                open-instruct#1823; prime-rl#684, #1084, #1712, #1805, #1825",
        tests: &[
            "align-train tests/all/resume.rs interrupted_runs_end_with_the_same_bits_and_the_same_lines",
            "align-train tests/all/resume.rs every_state_that_a_kill_can_leave_is_continued",
            "align-train tests/all/resume.rs the_best_checkpoint_is_that_of_an_uninterrupted_run",
            "align-train tests/all/resume.rs a_torn_checkpoint_is_passed_over_with_a_notice",
            "align-train tests/all/coupled.rs a_running_mean_goes_on_where_it_was",
            "align-data tests/all/order.rs a_batch_is_a_function_of_the_step",
            "align-cli tests/all/resume.rs dpo_on_one_thread",
            "align-cli tests/all/resume.rs dpo_with_the_best_kept_and_the_reference_precomputed",
            "align-cli tests/all/resume.rs dpo_with_an_adapter_that_drops_inputs",
            "align-cli tests/all/references.rs dpo_with_a_moving_reference_survives_kills",
            "align-cli tests/all/references.rs kto_survives_kills",
            "align-cli tests/all/references.rs bco_with_a_moving_reference_survives_kills",
            "align-cli tests/all/references.rs una_survives_kills",
            "align-ppo tests/all/iteration/resume.rs a_continued_run_ends_with_the_same_bits",
            "align-ppo tests/all/iteration/resume.rs what_a_run_may_have_beside_is_continued_too",
            "align-ppo src/iteration/state.rs samples_that_wait_come_back_bit_by_bit",
            "align-cli tests/all/ppo.rs a_killed_run_ends_with_the_same_bytes",
            "align-cli tests/all/ppo.rs a_killed_run_that_replaces_groups_ends_with_the_same_bytes",
            "align-cli tests/all/ppo.rs a_killed_run_that_samples_ahead_ends_with_the_same_bytes",
            "align-cli tests/all/ppo.rs a_run_that_is_killed_in_each_phase_ends_with_the_same_bytes",
        ],
        later: "",
    },
    Hazard {
        title: "what is kept is not used for something else",
        harm: "A cache whose key forgets the template, the limit or the model serves the numbers of another run.",
        peers: "trl#6206",
        tests: &[
            "align-cli tests/all/resume.rs changed_inputs_are_refused_and_nothing_is_lost",
            "align-data src/reference_cache.rs every_setting_and_every_token_counts",
            "align-data src/reference_cache.rs no_bit_of_an_entry_can_change_unseen",
            "align-data src/reference_cache.rs an_entry_under_another_name_is_not_taken",
            "align-cli tests/all/references.rs another_key_is_computed",
            "align-cli tests/all/references.rs an_adapter_that_is_the_reference_counts",
            "align-cli tests/all/references.rs damaged_entries_and_those_of_another_model_are_computed_again",
            "align-cli src/bin/align-torch/inputs.rs every_token_and_its_place_count",
            "align-cli tests/all/lora.rs rows_made_with_another_adapter_are_not_continued",
            "align-cli src/bin/align-torch/output.rs torn_rows_are_cut_and_foreign_rows_are_refused",
        ],
        later: "",
    },
    Hazard {
        title: "columns that nothing reads",
        harm: "A column of somebody else's program crashes the loader, or its name is silently taken for another.",
        peers: "axolotl#2415, #3217, #2858, #3655",
        tests: &[
            "align-cli tests/all/conformance.rs columns_that_are_not_read_are_named_and_change_nothing",
            "align-data tests/all/load.rs columns_are_mapped",
            "align-data tests/all/load.rs sft_reads_texts_conversations_and_prompts_with_answers",
        ],
        later: "",
    },
    Hazard {
        title: "unpaired rows keep their columns",
        harm: "Pairs that are taken apart lose what stood beside them, so that weights, sources and tools are gone.",
        peers: "trl#6059",
        tests: &["align-data tests/all/kinds.rs pairs_are_unpaired_in_one_group_and_keep_their_columns"],
        later: "",
    },
    Hazard {
        title: "the importance ratio is 1 in the first epoch",
        harm: "Old log-probabilities of another engine, mask or dropout make the first ratio something else than 1, and \
               clipping hides it.",
        peers: "trl#6789; verl#2953",
        tests: &[
            "align-ppo tests/all/iteration/mod.rs the_ratio_before_the_first_update_of_every_iteration_is_exactly_1",
            "align-ppo tests/all/objectives.rs identities_before_the_first_update",
            "align-ppo tests/all/phases.rs a_first_ratio_that_is_not_one_is_named",
        ],
        later: "",
    },
    Hazard {
        title: "whitening counts what the mask keeps",
        harm: "Means and variances over padding shrink every advantage by the share of padding in the batch.",
        peers: "OpenRLHF#1250",
        tests: &[
            "align-core src/stats.rs whitening_matches_the_golden_vector",
            "align-core src/stats.rs padding_never_changes_the_statistics",
            "align-core src/stats.rs an_empty_mask_gives_zero_and_not_nan",
            "align-ppo tests/all/golden.rs g3_whitening",
            "align-ppo tests/all/estimates.rs whitening_counts_every_token_once",
        ],
        later: "",
    },
    Hazard {
        title: "advantages at the end of an answer",
        harm: "An answer that ended has no value after its end, one that was cut off does; confusing the two teaches the \
               policy to stop early or never.",
        peers: "",
        tests: &[
            "align-ppo tests/all/golden.rs g3_rewards_and_advantages_through_the_phases",
            "align-ppo tests/all/golden.rs g3_truncation_through_the_phases",
            "align-ppo tests/all/estimates.rs an_end_is_worth_nothing_and_a_cut_what_the_critic_says",
        ],
        later: "",
    },
    Hazard {
        title: "memory does not grow",
        harm: "A graph, a cache or a log that is kept from step to step ends a long run at night.",
        peers: "verl#630; burn#4792; NeMo-RL#1057",
        tests: &[
            "align-train tests/memory.rs two_hundred_steps_of_every_kind_of_objective_do_not_make_the_process_grow",
            "align-rollout tests/memory.rs two_hundred_rollouts_do_not_make_the_process_grow",
            "align-rollout tests/engine_memory.rs two_hundred_rollouts_and_repacks_do_not_make_the_process_grow",
            "align-lm tests/all/recompute.rs passes_without_a_backward_pass_leave_nothing_behind",
            "align-ppo tests/memory.rs five_hundred_iterations_do_not_make_the_process_grow",
        ],
        later: "",
    },
    Hazard {
        title: "default learning rates are the documented ones",
        harm: "A trainer that inherits the default of another method trains at fifty times the rate that its manual \
               states.",
        peers: "trl#5173, #5174",
        tests: &[
            "align-cli tests/all/conformance.rs default_learning_rates_are_those_of_the_manual",
            "align-cli tests/all/front.rs the_manual_pages_are_fresh",
        ],
        later: "",
    },
    Hazard {
        title: "help is printed for every command",
        harm: "A help text that fails to print is met by the people who need it most.",
        peers: "trl#5135",
        tests: &[
            "align-cli tests/all/conformance.rs help_is_printed_for_every_command_there_is",
            "align-cli tests/all/front.rs help_of_every_command_needs_no_libtorch",
        ],
        later: "",
    },
    Hazard {
        title: "nothing needs a network",
        harm: "A look-up at a model hub stops training from local files when the hub is down or out of reach.",
        peers: "axolotl#1285",
        tests: &[
            "align-cli tests/all/conformance.rs a_machine_without_a_network_trains_and_samples",
            "xtask tests/tidy/network.rs nothing_of_a_program_opens_a_connection",
        ],
        later: "",
    },
    Hazard {
        title: "estimators of KL and entropy are what they are called",
        harm: "A KL that is logged with the wrong sign, estimator or mean makes a healthy run look broken and a broken \
               one healthy.",
        peers: "trl#1046, #1161, #1180; LlamaFactory#664, #1833",
        tests: &[
            "align-core src/kl.rs estimators_match_the_golden_vector",
            "align-core src/kl.rs expectations_and_gradients_are_those_of_the_divergences",
            "align-core src/logprobs.rs collision_probabilities_are_sums_of_squares",
            "align-cli tests/all/eval.rs a_model_against_itself",
            "align-ppo tests/all/golden.rs g4_estimators",
            "align-ppo tests/all/bandit.rs g4_what_the_kl_divergence_does_by_its_place",
            "align-ppo tests/all/losses.rs entropies_have_the_right_values_and_gradient",
            "align-ppo tests/all/phases.rs metrics_of_an_iteration",
        ],
        later: "",
    },
];
