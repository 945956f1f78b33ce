// SPDX-License-Identifier: Apache-2.0
// UTF-8 as the tokenizer needs it: checked, walked by code point, repaired. By ICU.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace palimpsest {

bool IsUtf8(absl::string_view text);

// The code point at `*offset`, which is advanced past it. REQUIRES: text is UTF-8, offset inside.
char32_t NextCodePoint(absl::string_view text, size_t* offset);

void AppendUtf8(char32_t code_point, std::string* out);

// Bytes with every maximal broken part replaced by U+FFFD, as Rust's from_utf8_lossy does.
std::string RepairUtf8(absl::string_view bytes);

// Length of the longest prefix that does not end inside a character which more bytes could finish.
size_t CompleteUtf8Prefix(absl::string_view bytes);

// The byte-level alphabet of GPT-2: each byte as one printable character. Printable ASCII and
// Latin-1 stand for themselves, the other 68 bytes are U+0100 onwards.
char32_t ByteToCharacter(uint8_t byte);
// The byte a character stands for, or -1.
int CharacterToByte(char32_t character);

}  // namespace palimpsest
