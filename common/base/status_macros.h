// SPDX-License-Identifier: Apache-2.0
// Propagation of absl::Status: the two macros every module boundary uses.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define KV_STATUS_CONCAT_INNER(a, b) a##b
#define KV_STATUS_CONCAT(a, b) KV_STATUS_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (an absl::Status) is not OK.
#define KV_RETURN_IF_ERROR(expr)                                            \
  do {                                                                      \
    if (absl::Status kv_status = (expr); !kv_status.ok()) return kv_status; \
  } while (false)

// Assigns the value of `expr` (an absl::StatusOr) to `lhs`, or returns its status.
// NOLINTBEGIN(bugprone-macro-parentheses): `var` and `lhs` declare names.
#define KV_ASSIGN_OR_RETURN(lhs, expr) \
  KV_ASSIGN_OR_RETURN_IMPL(KV_STATUS_CONCAT(kv_status_or_, __LINE__), lhs, expr)
#define KV_ASSIGN_OR_RETURN_IMPL(var, lhs, expr) \
  auto var = (expr);                             \
  if (!var.ok()) return std::move(var).status(); \
  lhs = std::move(var).value()
// NOLINTEND(bugprone-macro-parentheses)
