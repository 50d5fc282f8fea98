"""Every name and parameter of another package that an adapter overrides, patches or calls by a private name.

Read from the source of what is installed, so that a new version fails here with the name and not in somebody's run.
"""

import pytest
from sources import module_file, parameters, text

PARAMETERS = {
    # TRL
    "trl.trainer.grpo_trainer:GRPOTrainer._calculate_rewards": "inputs prompts completions completion_ids_list",
    "trl.trainer.grpo_trainer:GRPOTrainer._generate_and_score_completions": "inputs",
    "trl.trainer.grpo_trainer:GRPOTrainer.log": "logs start_time",
    "trl.trainer.rloo_trainer:RLOOTrainer._calculate_rewards": "inputs prompts completions completion_ids_list",
    "trl.trainer.rloo_trainer:RLOOTrainer._generate_and_score_completions": "inputs",
    "trl.trainer.rloo_trainer:RLOOTrainer.log": "logs start_time",
    "trl.trainer.utils:nanstd": "tensor dim keepdim",
    "trl.trainer.grpo_trainer:GRPOTrainer._save_checkpoint": "model trial",
    "trl.trainer.rloo_trainer:RLOOTrainer._save_checkpoint": "model trial",
    "trl.trainer.base_trainer:_BaseTrainer.create_model_card": "model_name dataset_name tags",
    "trl.trainer.grpo_trainer:GRPOTrainer.__init__": (
        "model reward_funcs args train_dataset eval_dataset processing_class reward_processing_classes callbacks "
        "optimizers quantization_config peft_config tools rollout_func environment_factory"
    ),
    "trl.trainer.rloo_trainer:RLOOTrainer.__init__": (
        "model reward_funcs args train_dataset eval_dataset processing_class reward_processing_classes callbacks "
        "optimizers quantization_config peft_config"
    ),
    "trl.trainer.grpo_trainer:GRPOTrainer._generate_single_turn": (
        "prompt_ids images multimodal_fields num_generations has_tool_images"
    ),
    "trl.chat_template_utils:parse_response": "tokenizer ids prefix tools",
    "trl.experimental.async_grpo.async_grpo_trainer:AsyncGRPOTrainer.__init__": (
        "model reward_funcs args train_dataset processing_class callbacks optimizers peft_config tools "
        "environment_factory rollout_worker weight_transfer"
    ),
    "transformers.trainer:Trainer._get_output_dir": "trial",
    "transformers.trainer:Trainer.train": "resume_from_checkpoint trial ignore_keys_for_eval",
    "trl.experimental.async_grpo.async_rollout_worker:_AsyncRolloutLoop._score_group": "group",
    # verl
    "verl.trainer.ppo.core_algos:register_adv_est": "name_or_enum",
    "verl.utils.config:validate_config": "config use_reference_policy use_critic",
    "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories": (
        "data batch_keys adv_estimator gamma lam num_repeat norm_adv_by_std_in_grpo config"
    ),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.__init__": (
        "trainer_mode trainer_config max_off_policy_threshold max_off_policy_strategy sampler_kwargs poll_interval "
        "refill_fn filter_groups_metric train_batch_size gen_batch_size max_inflight_gen_batches "
        "sync_refill_failed_groups"
    ),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._dapo_filtered_keys": "partition_id",
    # SkyRL
    "skyrl.backends.skyrl_train.utils.ppo_utils:register_advantage_estimator": "name",
    "skyrl.backends.skyrl_train.utils.ppo_utils:compute_advantages_and_returns": (
        "token_level_rewards response_mask index adv_estimator config values grpo_norm_by_std gamma lambd **kwargs"
    ),
    "skyrl.train.utils.utils:validate_cfg": "cfg",
    "skyrl.train.utils.utils:initialize_ray": "cfg",
    # Stable-Baselines3
    "stable_baselines3.common.buffers:RolloutBuffer.__init__": (
        "buffer_size observation_space action_space device gae_lambda gamma n_envs"
    ),
    "stable_baselines3.common.buffers:RolloutBuffer.add": "obs action reward episode_start value log_prob",
    "stable_baselines3.common.buffers:RolloutBuffer.compute_returns_and_advantage": "last_values dones",
    "stable_baselines3.common.buffers:RolloutBuffer.get": "batch_size",
    "stable_baselines3.common.buffers:RolloutBuffer._get_samples": "batch_inds env",
    "stable_baselines3.common.buffers:BaseBuffer.swap_and_flatten": "arr",
    "stable_baselines3.common.base_class:BaseAlgorithm.save": "path exclude include",
    "stable_baselines3.common.base_class:BaseAlgorithm.load": (
        "path env device custom_objects print_system_info force_reset **kwargs"
    ),
    "stable_baselines3.common.on_policy_algorithm:OnPolicyAlgorithm._setup_model": "",
    "stable_baselines3.common.on_policy_algorithm:OnPolicyAlgorithm.learn": (
        "total_timesteps callback log_interval tb_log_name reset_num_timesteps progress_bar"
    ),
    "stable_baselines3.ppo.ppo:PPO.train": "",
    "stable_baselines3.a2c.a2c:A2C.train": "",
    # TorchRL
    "torchrl.objectives.value.advantages:GAE.forward": "tensordict params target_params time_dim",
    "torchrl.objectives.value.advantages:ValueEstimatorBase._get_time_dim": "time_dim data",
    "torchrl.objectives.llm.grpo:MCAdvantage._get_stat": "name",
    "torchrl.objectives.llm.grpo:MCAdvantage._set_stat": "name value",
    "torchrl.objectives.llm.grpo:MCAdvantage.reset_stats": "",
    "torchrl.objectives.llm.grpo:MCAdvantage.get_stats": "",
    "torchrl.objectives.llm.grpo:MCAdvantage._cat_tensordicts": "tensordicts dim",
    "torchrl.objectives.llm.grpo:MCAdvantage._trajectory_returns": "rewards",
    "torchrl.objectives.llm.grpo:MCAdvantage._trajectory_advantage": "trajs",
    # RLlib
    "ray.rllib.core.learner.learner:Learner.build": "",
    "ray.rllib.core.learner.learner:Learner.update": (
        "batch batches batch_refs episodes episodes_refs data_iterators training_data timesteps num_total_minibatches "
        "num_epochs minibatch_size shuffle_batch_per_epoch _no_metrics_reduce **kwargs"
    ),
    "ray.rllib.core.learner.learner:Learner.get_state": "components not_components **kwargs",
    "ray.rllib.core.learner.learner:Learner.set_state": "state",
    "ray.rllib.core.learner.learner:Learner.should_module_be_updated": "module_id multi_agent_batch",
    "ray.rllib.core.learner.training_data:TrainingData.shard": "num_shards len_lookback_buffer **kwargs",
    "ray.rllib.env.single_agent_episode:SingleAgentEpisode.slice": "slice_ len_lookback_buffer",
    "ray.rllib.env.single_agent_episode:SingleAgentEpisode.concat_episode": "other",
    "ray.rllib.utils.checkpoints:Checkpointable._check_component": "name components not_components",
    # BoTorch
    "botorch.acquisition.risk_measures:RiskMeasureMCObjective.__init__": "n_w preprocessing_function",
    "botorch.acquisition.risk_measures:RiskMeasureMCObjective._prepare_samples": "samples",
    "botorch.acquisition.risk_measures:RiskMeasureMCObjective.forward": "samples X",
    # rsl_rl
    "rsl_rl.algorithms.ppo:PPO.construct_algorithm": "obs env cfg device",
    "rsl_rl.algorithms.ppo:PPO.act": "obs",
    "rsl_rl.algorithms.ppo:PPO.process_env_step": "obs rewards dones extras",
    "rsl_rl.algorithms.ppo:PPO.compute_returns": "obs",
    "rsl_rl.algorithms.ppo:PPO.update": "",
    "rsl_rl.algorithms.ppo:PPO.save": "",
    "rsl_rl.algorithms.ppo:PPO.load": "loaded_dict load_cfg strict",
    # skrl
    "skrl.agents.torch.ppo.ppo:PPO.record_transition": (
        "observations states actions rewards next_observations next_states terminated truncated infos timestep "
        "timesteps"
    ),
    "skrl.agents.torch.ppo.ppo:PPO.update": "timestep timesteps",
    # the recipes
    "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.compute_advantages_and_returns": "experiences",
    "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.get_cumulative_returns": (
        "rewards action_mask gamma"
    ),
    "nemo_rl.algorithms.grpo:_create_advantage_estimator": "master_config",
    "nemo_rl.algorithms.advantage_estimator:GRPOAdvantageEstimator.compute_advantage": (
        "prompt_ids rewards mask **kwargs"
    ),
    "prime_rl.orchestrator.algo.base:Algorithm.score_group": "episodes",
    "prime_rl.orchestrator.algo.base:iter_trainable_traces": "episodes",
    "prime_rl.orchestrator.algo.routing:assign_advantages": "trace values",
    "areal.utils.data:Normalization.__call__": "x loss_mask high_precision reduce_group",
    "areal.engine.fsdp_engine:FSDPPPOActor.__init__": "config",
    "roll.utils.functionals:reward_postprocess": "data pipeline_config running_ctrl",
    "miles.ray.rollout.train_data_conversion:_post_process_rewards": (
        "args samples custom_reward_post_process_func prompt_group_sizes"
    ),
    "rlinf.algorithms.registry:register_advantage": "name",
    "rlinf.algorithms.advantages:compute_grpo_advantages": "rewards loss_mask group_size **kwargs",
    "axolotl.utils.import_helper:get_cls_from_module_str": "module_str",
    "axolotl.integrations.base:BasePlugin.get_training_args": "cfg",
    "axolotl.integrations.base:BasePlugin.get_trainer_cls": "cfg",
}

# what their code has to contain: calls by which an override is reached, and names that the adapters read
CONTAINS = {
    "trl.trainer.grpo_trainer:GRPOTrainer._generate_and_score_completions": (
        "self._calculate_rewards(",
        'self._logs["advantages"]',
        '"advantages"',
    ),
    "trl.trainer.rloo_trainer:RLOOTrainer._generate_and_score_completions": (
        "self._calculate_rewards(",
        'self._logs["advantages"]',
        "self.normalize_advantages",
    ),
    "trl.trainer.grpo_trainer:GRPOTrainer.__init__": (
        "self.num_generations ",
        "self.num_generations_eval ",
        "self.reward_func_names ",
        "self.reward_weights ",
        "self._metrics ",
    ),
    "trl.trainer.base_trainer:_BaseTrainer": ("_tag_names = ", "_name = ", "_paper = "),
    "trl.trainer.grpo_trainer:GRPOTrainer.log": ("self._metrics[mode]",),
    "trl.trainer.rloo_trainer:RLOOTrainer.log": ("self._metrics[mode]",),
    "trl.experimental.async_grpo.async_rollout_worker:_AsyncRolloutLoop._score_group": (
        "group.completions_sequences",
        '"reward": float(reward)',
    ),
    "trl.experimental.async_grpo.async_rollout_worker:AsyncRolloutWorker.start": (
        "self._loop_cls,",
        "self._loop_kwargs,",
    ),
    "trl.experimental.async_grpo.async_grpo_trainer:AsyncGRPOTrainer.__init__": (
        "self.rollout_worker = AsyncRolloutWorker(",
    ),
    "rsl_rl.algorithms.ppo:PPO.process_env_step": ('"time_outs" in extras', "self.storage."),
    "rsl_rl.algorithms.ppo:PPO.compute_returns": ("st.rewards", "st.dones"),
    "skrl.agents.torch.ppo.ppo:PPO.update": (
        'self.memory.get_tensor_by_name("rewards")',
        'self.memory.get_tensor_by_name("terminated")',
    ),
    "skrl.agents.torch.ppo.ppo:PPO.record_transition": ("self.cfg.time_limit_bootstrap", "self.cfg.rewards_shaper"),
    "verl.trainer.main_ppo:main": ("validate_config(",),
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._build_replay_buffer": (
        'custom_sampler.get("path")',
        "sampler_kwargs=sampler_config.sampler_kwargs",
    ),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._terminal_eviction_reasons": ("self._dapo_filtered_keys(",),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBufferAsync._terminal_eviction_reasons": ("self._dapo_filtered_keys(",),
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer.__init__": (
        "self._dapo_classification_cache",
        "self.partitions",
        "self.finished_keys",
    ),
    "stable_baselines3.common.on_policy_algorithm:OnPolicyAlgorithm.collect_rollouts": (
        "callback.update_locals(locals())",
        "rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)",
        "rewards, dones, infos = env.step(",
    ),
    "stable_baselines3.common.on_policy_algorithm:OnPolicyAlgorithm._setup_model": (
        "self.rollout_buffer_class(",
        "**self.rollout_buffer_kwargs",
    ),
    "stable_baselines3.common.buffers:RolloutBuffer.reset": ("self.generator_ready = False",),
    "ray.rllib.core.learner.learner:Learner.build": ("self._learner_connector = self.config.build_learner_connector(",),
    "areal.trainer.ppo.actor:PPOActor._compute_advantages": ("reward_score = self.reward_norm(reward_score)",),
    "roll.pipeline.rlvr.rlvr_pipeline:RLVRPipeline.run": ("reward_postprocess(", "advantage_clip=", "gamma="),
    "nemo_rl.algorithms.grpo:grpo_train": (
        "_create_advantage_estimator(master_config)",
        "prompt_ids=prompt_ids_for_adv",
    ),
    "prime_rl.orchestrator.algo:build_algorithm": ("ALGORITHM_CLASSES[config.type]",),
    "rlinf.algorithms.utils:preprocess_reasoning_advantages_inputs": ('== "grpo"', "group_size"),
    "miles.ray.rollout.train_data_conversion:_post_process_rewards": ("return f(args, samples)",),
    "axolotl.core.builders.rl:HFRLTrainerBuilder._get_trainer_cls": (
        "get_cls_from_module_str(self.cfg.trainer_cls)",
        "set_trainer_args(self.cfg)",
    ),
    "axolotl.core.builders.rl:HFRLTrainerBuilder._build_training_arguments": (
        "plugin_manager.get_training_args(self.cfg)",
    ),
    "unsloth.models.rl:_patch_trl_rl_trainers_impl": ("trl.{RLTrainer_name} = created_module.Unsloth{RLTrainer_name}",),
}


@pytest.mark.parametrize("place", PARAMETERS)
def test_parameters_are_those_the_adapters_know(place: str) -> None:
    module, name = place.split(":")
    assert parameters(module, name) == PARAMETERS[place].split(), f"{place} has other parameters"


@pytest.mark.parametrize("place", CONTAINS)
def test_code_that_reaches_the_overrides_is_still_there(place: str) -> None:
    module, name = place.split(":")
    source = text(module, name)
    missing = [part for part in CONTAINS[place] if part not in source]
    assert not missing, f"{place} no longer contains {missing}"


def test_a_missing_package_skips_and_a_missing_name_fails() -> None:
    with pytest.raises(pytest.skip.Exception, match="no_such_package is not installed"):
        module_file("no_such_package.module")
    with pytest.raises(pytest.fail.Exception, match=r"has no module pytest\.no_such_module"):
        module_file("pytest.no_such_module")
    with pytest.raises(pytest.fail.Exception, match="has no no_such_function"):
        parameters("pytest", "no_such_function")
