// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/wire.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/wire_fields.h"

namespace palimpsest {
namespace {

using wire_fields::CheckList;
using wire_fields::CutText;
using wire_fields::ReadText;
using wire_fields::ReadThought;
using wire_fields::ToWire;

absl::StatusOr<Format> ReadFormat(wire::Format format, const char* field) {
  const auto value = static_cast<uint16_t>(format);
  if (value < kFormatCount) return static_cast<Format>(value);
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is no format"));
}

absl::Status ReadPageFormat(wire::PageFormat::Reader reader, const char* field, PageFormat& out) {
  KV_ASSIGN_OR_RETURN(out.k, ReadFormat(reader.getK(), field));
  KV_ASSIGN_OR_RETURN(out.v, ReadFormat(reader.getV(), field));
  return absl::OkStatus();
}

absl::StatusOr<ClassFormats> ReadClassFormats(wire::ClassFormats::Reader reader) {
  ClassFormats formats;
  KV_RETURN_IF_ERROR(ReadPageFormat(reader.getTransition(), "policy.formats.transition",
                                    formats.by_thought[Index(Thought::kTransition)]));
  KV_RETURN_IF_ERROR(ReadPageFormat(reader.getExecution(), "policy.formats.execution",
                                    formats.by_thought[Index(Thought::kExecution)]));
  KV_RETURN_IF_ERROR(ReadPageFormat(reader.getReasoning(), "policy.formats.reasoning",
                                    formats.by_thought[Index(Thought::kReasoning)]));
  return formats;
}

void WritePageFormat(const PageFormat& format, wire::PageFormat::Builder builder) {
  builder.setK(static_cast<wire::Format>(format.k));
  builder.setV(static_cast<wire::Format>(format.v));
}

// REQUIRES: the length has been checked.
template <typename List, typename T>
void CopyList(const List& list, std::vector<T>& values) {
  values.clear();
  values.reserve(list.size());
  for (const auto value : list) values.push_back(value);
}

}  // namespace

absl::StatusOr<PolicyChoice> ReadPolicyChoice(wire::PolicySpec::Reader reader) {
  PolicyChoice choice;
  KV_ASSIGN_OR_RETURN(choice.name, ReadText(reader.getName(), "policy.name"));
  choice.budget_tokens = reader.getBudgetTokens();
  choice.window_tokens = reader.getWindowTokens();
  KV_RETURN_IF_ERROR(CheckList(reader.getRetention(), kRetentionStepsMax, "policy.retention"));
  CopyList(reader.getRetention(), choice.retention);
  if (reader.hasFormats()) {
    KV_ASSIGN_OR_RETURN(choice.formats, ReadClassFormats(reader.getFormats()));
  }
  KV_RETURN_IF_ERROR(
      CheckList(reader.getSparsityLayers(), limits::kSparsityLayersMax, "policy.sparsityLayers"));
  CopyList(reader.getSparsityLayers(), choice.sparsity_layers);
  KV_RETURN_IF_ERROR(CheckList(reader.getTheta(), 2, "policy.theta"));
  CopyList(reader.getTheta(), choice.theta);
  return choice;
}

absl::StatusOr<PolicySpec> ReadPolicySpec(wire::PolicySpec::Reader reader) {
  KV_ASSIGN_OR_RETURN(PolicyChoice said, ReadPolicyChoice(reader));
  if (!said.formats.has_value()) {
    return absl::InvalidArgumentError("policy.formats: expected those of all three classes");
  }
  return PolicySpec{.name = std::move(said.name),
                    .budget_tokens = said.budget_tokens,
                    .window_tokens = said.window_tokens,
                    .retention = std::move(said.retention),
                    .formats = *said.formats,
                    .sparsity_layers = std::move(said.sparsity_layers),
                    .theta = std::move(said.theta)};
}

namespace {

template <typename Values, typename ListBuilder>
void WriteList(const Values& values, ListBuilder list) {
  for (size_t i = 0; i < values.size(); ++i) list.set(static_cast<unsigned>(i), values[i]);
}

}  // namespace

void Write(const PolicyChoice& choice, wire::PolicySpec::Builder builder) {
  builder.setName(CutText(choice.name));
  builder.setBudgetTokens(choice.budget_tokens);
  builder.setWindowTokens(choice.window_tokens);
  WriteList(choice.retention, builder.initRetention(choice.retention.size()));
  if (choice.formats.has_value()) {
    auto formats = builder.initFormats();
    WritePageFormat(choice.formats->of(Thought::kTransition), formats.initTransition());
    WritePageFormat(choice.formats->of(Thought::kExecution), formats.initExecution());
    WritePageFormat(choice.formats->of(Thought::kReasoning), formats.initReasoning());
  }
  WriteList(choice.sparsity_layers, builder.initSparsityLayers(choice.sparsity_layers.size()));
  WriteList(choice.theta, builder.initTheta(choice.theta.size()));
}

void Write(const PolicySpec& spec, wire::PolicySpec::Builder builder) {
  Write(ChoiceOf(spec), builder);
}

namespace {

absl::StatusOr<std::vector<Anneal>> ReadAnneals(capnp::List<wire::Anneal>::Reader list,
                                                const char* field) {
  KV_RETURN_IF_ERROR(CheckList(list, limits::kAnnealsPerPlanMax, field));
  std::vector<Anneal> anneals;
  anneals.reserve(list.size());
  for (const auto anneal : list) {
    anneals.push_back({.first_position = anneal.getFirstPosition(),
                       .keep = anneal.getKeep(),
                       .demotions = anneal.getDemotions()});
  }
  return anneals;
}

void WriteAnneals(const std::vector<Anneal>& anneals, capnp::List<wire::Anneal>::Builder list) {
  for (size_t i = 0; i < anneals.size(); ++i) {
    auto builder = list[static_cast<unsigned>(i)];
    builder.setFirstPosition(anneals[i].first_position);
    builder.setKeep(anneals[i].keep);
    builder.setDemotions(anneals[i].demotions);
  }
}

template <typename Reader>
Stamp ReadStamp(Reader reader) {
  return {
      .handle = reader.getHandle(), .partition = reader.getPartition(), .epoch = reader.getEpoch()};
}

template <typename Builder>
void WriteStamp(const Stamp& stamp, Builder builder) {
  builder.setHandle(stamp.handle);
  builder.setPartition(stamp.partition);
  builder.setEpoch(stamp.epoch);
}

}  // namespace

Refusal ReadRefusal(wire::Refusal::Reader reader) {
  Refusal refusal;
  const auto text = reader.getText();
  refusal.text.assign(text.begin(), std::min(text.size(), limits::kTextBytesMax));
  refusal.retry_after_ms = reader.getRetryAfterMs();
  using Code = Refusal::Code;
  const auto which = static_cast<uint16_t>(reader.which());
  if (which <= static_cast<uint16_t>(Code::kOffences)) refusal.code = static_cast<Code>(which);
  if (reader.isUnsupportedVersion()) refusal.value = reader.getUnsupportedVersion().getNewest();
  if (reader.isLimit()) refusal.value = reader.getLimit().getMaximum();
  if (reader.isStaleEpoch()) refusal.value = reader.getStaleEpoch().getCurrent();
  if (reader.isNotOwner()) refusal.value = reader.getNotOwner().getPartition();
  return refusal;
}

void Write(const Refusal& refusal, wire::Refusal::Builder builder) {
  builder.setText(CutText(refusal.text));
  builder.setRetryAfterMs(refusal.retry_after_ms);
  switch (refusal.code) {
    case Refusal::Code::kUnspecified:
      return builder.setUnspecified();
    case Refusal::Code::kUnsupportedVersion: {
      auto versions = builder.initUnsupportedVersion();
      versions.setOldest(kProtocolVersionOldest);
      return versions.setNewest(static_cast<uint32_t>(refusal.value));
    }
    case Refusal::Code::kUnauthorized:
      return builder.setUnauthorized();
    case Refusal::Code::kDraining:
      return builder.setDraining();
    case Refusal::Code::kLimit:
      return builder.initLimit().setMaximum(refusal.value);
    case Refusal::Code::kStaleEpoch:
      return builder.initStaleEpoch().setCurrent(refusal.value);
    case Refusal::Code::kNotOwner:
      return builder.initNotOwner().setPartition(static_cast<uint16_t>(refusal.value));
    case Refusal::Code::kNotFound:
      return builder.setNotFound();
    case Refusal::Code::kInvalid:
      return builder.setInvalid();
    case Refusal::Code::kConflict:
      return builder.setConflict();
    case Refusal::Code::kSuperseded:
      return builder.setSuperseded();
    case Refusal::Code::kExpired:
      return builder.setExpired();
    case Refusal::Code::kOffences:
      return builder.setOffences();
  }
}

absl::StatusOr<HelloMessage> ReadHello(wire::Hello::Reader reader) {
  HelloMessage hello;
  hello.protocol_version = reader.getProtocolVersion();
  KV_ASSIGN_OR_RETURN(hello.worker_name, ReadText(reader.getWorkerName(), "workerName"));
  hello.worker_incarnation = reader.getWorkerIncarnation();
  KV_ASSIGN_OR_RETURN(hello.credential, ReadText(reader.getCredential(), "credential"));
  hello.heartbeat_ms = reader.getHeartbeatMs();
  return hello;
}

void Write(const HelloMessage& hello, wire::Hello::Builder builder) {
  builder.setProtocolVersion(hello.protocol_version);
  builder.setWorkerName(CutText(hello.worker_name));
  builder.setWorkerIncarnation(hello.worker_incarnation);
  builder.setCredential(CutText(hello.credential));
  builder.setHeartbeatMs(hello.heartbeat_ms);
}

absl::StatusOr<SnapshotMessage> ReadSnapshot(wire::Snapshot::Reader reader) {
  SnapshotMessage snapshot;
  snapshot.sequence = reader.getSequence();
  KV_ASSIGN_OR_RETURN(snapshot.tenant, ReadText(reader.getTenant(), "tenant"));
  KV_ASSIGN_OR_RETURN(snapshot.policy, ReadPolicySpec(reader.getPolicy()));
  const auto segments = reader.getSegments();
  KV_RETURN_IF_ERROR(CheckList(segments, limits::kSegmentsPerSequenceMax, "segments"));
  snapshot.state.segments.reserve(segments.size());
  for (const auto segment : segments) {
    KV_ASSIGN_OR_RETURN(const Thought label, ReadThought(segment.getLabel(), "segments.label"));
    snapshot.state.segments.push_back({.first_position = segment.getFirstPosition(),
                                       .token_count = segment.getTokenCount(),
                                       .live_count = segment.getLiveCount(),
                                       .label = label,
                                       .demotions = segment.getDemotions(),
                                       .pinned = segment.getPinned()});
  }
  snapshot.last_report = reader.getLastReport();
  snapshot.last_plan = reader.getLastPlan();
  return snapshot;
}

void Write(const SnapshotMessage& snapshot, wire::Snapshot::Builder builder) {
  builder.setSequence(snapshot.sequence);
  builder.setTenant(CutText(snapshot.tenant));
  Write(snapshot.policy, builder.initPolicy());
  const auto& segments = snapshot.state.segments;
  auto list = builder.initSegments(segments.size());
  for (size_t i = 0; i < segments.size(); ++i) {
    auto out = list[static_cast<unsigned>(i)];
    out.setFirstPosition(segments[i].first_position);
    out.setTokenCount(segments[i].token_count);
    out.setLiveCount(segments[i].live_count);
    out.setLabel(ToWire(segments[i].label));
    out.setDemotions(segments[i].demotions);
    out.setPinned(segments[i].pinned);
  }
  builder.setLastReport(snapshot.last_report);
  builder.setLastPlan(snapshot.last_plan);
}

absl::StatusOr<ReportMessage> ReadReport(wire::Report::Reader reader) {
  ReportMessage report;
  report.stamp = ReadStamp(reader);
  report.number = reader.getNumber();
  const auto sealed = reader.getSealed();
  KV_RETURN_IF_ERROR(CheckList(sealed, limits::kSegmentsPerSequenceMax, "sealed"));
  report.sealed.reserve(sealed.size());
  for (const auto run : sealed) {
    KV_ASSIGN_OR_RETURN(const Thought label, ReadThought(run.getLabel(), "sealed.label"));
    report.sealed.push_back({.token_count = run.getTokenCount(),
                             .label = label,
                             .pinned = run.getPinned(),
                             .starts_window = run.getStartsWindow()});
  }
  report.refresh = reader.getRefresh();
  KV_RETURN_IF_ERROR(CheckList(reader.getSparsity(), limits::kSparsityLayersMax, "sparsity"));
  CopyList(reader.getSparsity(), report.sparsity);
  report.wants_answer = reader.getWantsAnswer();
  report.sent_at_ns = reader.getSentAt();
  return report;
}

void Write(const ReportMessage& report, wire::Report::Builder builder) {
  WriteStamp(report.stamp, builder);
  builder.setNumber(report.number);
  auto sealed = builder.initSealed(report.sealed.size());
  for (size_t i = 0; i < report.sealed.size(); ++i) {
    auto out = sealed[static_cast<unsigned>(i)];
    out.setTokenCount(report.sealed[i].token_count);
    out.setLabel(ToWire(report.sealed[i].label));
    out.setPinned(report.sealed[i].pinned);
    out.setStartsWindow(report.sealed[i].starts_window);
  }
  builder.setRefresh(report.refresh);
  WriteList(report.sparsity, builder.initSparsity(report.sparsity.size()));
  builder.setWantsAnswer(report.wants_answer);
  builder.setSentAt(report.sent_at_ns);
}

absl::StatusOr<PlanMessage> ReadPlan(wire::Plan::Reader reader) {
  PlanMessage message;
  message.stamp = ReadStamp(reader);
  message.plan_number = reader.getPlanNumber();
  message.report_number = reader.getReportNumber();
  const auto label = reader.getNextLabel();
  if (label.isThought()) {
    KV_ASSIGN_OR_RETURN(message.plan.next_label, ReadThought(label.getThought(), "nextLabel"));
  } else if (!label.isUnchanged()) {
    return absl::InvalidArgumentError("nextLabel: unknown kind");
  }
  KV_ASSIGN_OR_RETURN(message.plan.anneals, ReadAnneals(reader.getAnneals(), "anneals"));
  message.echo_sent_at_ns = reader.getEchoSentAt();
  return message;
}

void Write(const PlanMessage& message, wire::Plan::Builder builder) {
  WriteStamp(message.stamp, builder);
  builder.setPlanNumber(message.plan_number);
  builder.setReportNumber(message.report_number);
  if (message.plan.next_label.has_value()) {
    builder.getNextLabel().setThought(ToWire(*message.plan.next_label));
  } else {
    builder.getNextLabel().setUnchanged();
  }
  WriteAnneals(message.plan.anneals, builder.initAnneals(message.plan.anneals.size()));
  builder.setEchoSentAt(message.echo_sent_at_ns);
}

void Write(const PlanBatchMessage& batch, wire::PlanBatch::Builder builder) {
  auto plans = builder.initPlans(batch.plans.size());
  for (size_t i = 0; i < batch.plans.size(); ++i) {
    Write(batch.plans[i], plans[static_cast<unsigned>(i)]);
  }
  WriteList(batch.needs_snapshot, builder.initNeedsSnapshot(batch.needs_snapshot.size()));
  auto refusals = builder.initRefusals(batch.refusals.size());
  for (size_t i = 0; i < batch.refusals.size(); ++i) {
    auto out = refusals[static_cast<unsigned>(i)];
    out.setHandle(batch.refusals[i].handle);
    out.setNumber(batch.refusals[i].number);
    Write(batch.refusals[i].refusal, out.initRefusal());
  }
}

absl::StatusOr<AckMessage> ReadAck(wire::Ack::Reader reader) {
  AckMessage ack;
  ack.stamp = ReadStamp(reader);
  ack.plan_number = reader.getPlanNumber();
  KV_ASSIGN_OR_RETURN(ack.applied, ReadAnneals(reader.getApplied(), "applied"));
  ack.lag_ns = reader.getLagNs();
  return ack;
}

void Write(const AckMessage& ack, wire::Ack::Builder builder) {
  WriteStamp(ack.stamp, builder);
  builder.setPlanNumber(ack.plan_number);
  WriteAnneals(ack.applied, builder.initApplied(ack.applied.size()));
  builder.setLagNs(ack.lag_ns);
}

}  // namespace palimpsest
