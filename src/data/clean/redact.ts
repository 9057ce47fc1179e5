/**
 * Personal data that has a form: found by patterns, confirmed by check digits where there are some, replaced by placeholders.
 *
 * @module
 */
import { AttributeError } from '../../errors.js';
import { isIP } from 'node:net';
import { checkBoolean, checkKeys, checkOneOf } from '../../util/assert.js';
import { formatValue } from '../../util/format.js';
import { replaceText, type CleanStep } from './step.js';

/** What {@link redact} knows. */
export type PersonalData = 'email' | 'iban' | 'creditCard' | 'ssn' | 'ipv4' | 'ipv6' | 'phone';

/** Options of {@link redact}. */
export interface RedactOptions {
  /** What is looked for. Default: everything in {@link PersonalData}. */
  readonly kinds?: readonly PersonalData[];
  /** Leave addresses that identify nobody: loop-back, private, link-local, documentation. Default true. */
  readonly keepPrivateIp?: boolean;
  /** What takes the place of a find. Default: `<EMAIL>`, `<IBAN>`, `<CREDIT_CARD>`, `<SSN>`, `<IP_ADDRESS>`, `<PHONE>`. */
  readonly placeholders?: Partial<Readonly<Record<PersonalData, string>>>;
}

const PLACEHOLDERS: Readonly<Record<PersonalData, string>> = {
  email: '<EMAIL>',
  iban: '<IBAN>',
  creditCard: '<CREDIT_CARD>',
  ssn: '<SSN>',
  ipv4: '<IP_ADDRESS>',
  ipv6: '<IP_ADDRESS>',
  phone: '<PHONE>',
};

/** In the order in which they are looked for: the surest first, since a find hides its text from the later ones. */
const KINDS: readonly PersonalData[] = ['email', 'iban', 'creditCard', 'ssn', 'ipv6', 'ipv4', 'phone'];

/**
 * Whether the digits of a card number pass the Luhn check (ISO/IEC 7812-1, annex B). Blanks and hyphens are passed over; anything else
 * makes it false.
 */
export function isLuhnValid(number: string): boolean {
  const digits = number.replace(/[ -]/g, '');
  if (!/^\d{2,}$/.test(digits)) return false;
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    const digit = digits.charCodeAt(digits.length - 1 - i) - 48;
    const doubled = i % 2 === 1 ? 2 * digit : digit;
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return sum % 10 === 0;
}

/** Lengths of IBANs by country (SWIFT IBAN registry), for numbers that are printed without blanks around them. */
const IBAN_LENGTHS: Readonly<Record<string, number>> = {
  AD: 24, AE: 23, AL: 28, AT: 20, AZ: 28, BA: 20, BE: 16, BG: 22, BH: 22, BI: 27, BR: 29, BY: 28, CH: 21, CR: 22, CY: 28, CZ: 24, DE: 22,
  DJ: 27, DK: 18, DO: 28, EE: 20, EG: 29, ES: 24, FI: 18, FK: 18, FO: 18, FR: 27, GB: 22, GE: 22, GI: 23, GL: 18, GR: 27, GT: 28, HR: 21,
  HU: 28, IE: 22, IL: 23, IQ: 23, IS: 26, IT: 27, JO: 30, KW: 30, KZ: 20, LB: 28, LC: 32, LI: 21, LT: 20, LU: 20, LV: 21, LY: 25, MC: 27,
  MD: 24, ME: 22, MK: 19, MN: 20, MR: 27, MT: 31, MU: 30, NI: 28, NL: 18, NO: 15, OM: 23, PK: 24, PL: 28, PS: 29, PT: 25, QA: 29, RO: 24,
  RS: 22, RU: 33, SA: 24, SC: 31, SD: 18, SE: 24, SI: 19, SK: 24, SM: 27, SO: 23, ST: 25, SV: 28, TL: 23, TN: 24, TR: 26, UA: 29, VA: 22,
  VG: 24, XK: 20, YE: 30,
}; // prettier-ignore

/** Whether an IBAN has the length of its country and passes the check modulo 97 (ISO 13616, ISO 7064 MOD 97-10). Blanks are passed over. */
export function isIbanValid(iban: string): boolean {
  const bare = iban.replace(/[ -]/g, '').toUpperCase();
  if (!/^[A-Z]{2}\d{2}[A-Z0-9]{8,30}$/.test(bare) || IBAN_LENGTHS[bare.slice(0, 2)] !== bare.length) return false;
  let rest = 0;
  for (const character of bare.slice(4) + bare.slice(0, 4)) {
    const value = parseInt(character, 36); // A is 10 … Z is 35
    rest = (rest * (value > 9 ? 100 : 10) + value) % 97;
  }
  return rest === 1;
}

/** Issuer ranges in use (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro, Mir, RuPay. */
const ISSUER =
  /^(?:4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|6(?:011|4[4-9]|5|2|0|[37])|3(?:0[0-5]|[689])|35|5[06-9]|220[0-4]|81)/;

function isCard(found: string): boolean {
  const digits = found.replace(/[ -]/g, '');
  return digits.length >= 13 && digits.length <= 19 && ISSUER.test(digits) && isLuhnValid(digits);
}

/** Area, group and serial numbers that the Social Security Administration gives out. */
function isSsn(found: string): boolean {
  const [area, group, serial] = found.split(/[ -]/);
  return !/^(?:000|666|9\d\d)$/.test(area!) && group !== '00' && serial !== '0000';
}

/** RFC 1918, 1122, 3927, 5737, 6598, 1112: networks whose addresses say nothing about a person. */
const PRIVATE_IPV4 =
  /^(?:0\.|10\.|127\.|169\.254\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|2(?:2[4-9]|[345]\d)\.)/;
const PRIVATE_IPV6 = /^(?:::1?$|fe[89ab][0-9a-f]:|f[cd][0-9a-f]{2}:|ff[0-9a-f]{2}:|2001:0?db8:)/i;

/** A number with a country code (E.164: at most 15 digits), or a North American one with separators. */
const PHONE =
  /(?<![\p{L}\p{N}+.,/-])(?:\+|00)[1-9]\d{0,2}[ ./-]?(?:\(0?\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}(?![\p{L}\p{N}]|[.,]\d)|(?<![\p{L}\p{N}+.,/-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}(?![\p{L}\p{N}]|[.,-]\d)/gu;

interface Finder {
  /** Cheap test that spares most texts the pattern. */
  readonly hint: RegExp;
  readonly pattern: RegExp;
  readonly accepts: (found: string) => boolean;
}

const always = (): boolean => true;

function finders(keepPrivateIp: boolean): Readonly<Record<PersonalData, Finder>> {
  return {
    email: {
      hint: /@/,
      // Dots, hyphens and the like inside the local part (RFC 5321, unquoted); a domain that ends in letters. Bounded, so it is linear.
      pattern:
        /(?<![\p{L}\p{N}.!#$%&'*+/=?^_`{|}~-])[\p{L}\p{N}!#$%&'*+/=?^_`{|}~-][\p{L}\p{N}.!#$%&'*+/=?^_`{|}~-]{0,63}@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.){1,8}\p{L}{2,24}(?![\p{L}\p{N}])/gu,
      accepts: always,
    },
    iban: {
      hint: /[A-Za-z]{2}\d\d/,
      pattern: /(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])/g,
      accepts: isIbanValid,
    },
    creditCard: {
      hint: /\d[ \d-]{11,}\d/,
      pattern: /(?<![\p{L}\p{N}.,+-])\d(?:[ -]?\d){12,18}(?![\p{L}\p{N}]|[.,-]\d)/gu,
      accepts: isCard,
    },
    ssn: {
      hint: /\d{3}[ -]\d\d/,
      pattern: /(?<![\p{L}\p{N}-])\d{3}([ -])\d{2}\1\d{4}(?![\p{L}\p{N}]|-\d)/gu,
      accepts: isSsn,
    },
    ipv6: {
      hint: /:[0-9a-f]{0,4}:/i,
      pattern: /(?<![\p{L}\p{N}:.])(?:[0-9a-f]{1,4})?(?::{1,2}[0-9a-f]{1,4}){1,8}(?:::)?(?![\p{L}\p{N}:]|\.\d)/giu,
      accepts: (found) => isIP(found) === 6 && !(keepPrivateIp && PRIVATE_IPV6.test(found)),
    },
    ipv4: {
      hint: /\d\.\d/,
      pattern: /(?<![\p{L}\p{N}.-])(?:\d{1,3}\.){3}\d{1,3}(?![\p{L}\p{N}-]|\.\d)/gu,
      accepts: (found) => isIP(found) === 4 && !(keepPrivateIp && PRIVATE_IPV4.test(found)),
    },
    phone: { hint: /\d{3}|\+\d/, pattern: PHONE, accepts: always },
  };
}

/** IBANs in groups of four may be followed by an upper-case word, which the pattern swallows: cut it back to the country's length. */
function trimIban(found: string): string {
  const length = IBAN_LENGTHS[found.slice(0, 2).toUpperCase()];
  let [at, seen] = [0, 0];
  while (length !== undefined && at < found.length && seen < length) if (!/[ -]/.test(found[at++]!)) seen++;
  return /[A-Za-z0-9]/.test(found[at] ?? '') ? found : found.slice(0, at);
}

/**
 * Replaces personal data by typed placeholders and counts what it replaced, by kind.
 *
 * What it finds: e-mail addresses; IBANs (length and check digits); payment cards of 13 to 19 digits (issuer and Luhn check); US social
 * security numbers written with hyphens or blanks; IPv4 and IPv6 addresses; telephone numbers with a country code (+ or 00), or North
 * American ones with separators.
 *
 * What it does not find: names, postal addresses, dates of birth, national identity numbers of other countries, passport and licence
 * numbers, account names, addresses spelt out ("name at host dot com"), telephone numbers in national form outside North America, and
 * anything in images. What passes it is not anonymous in the sense of data-protection law.
 *
 * @throws AttributeError for unknown kinds
 */
export function redact(options: RedactOptions = {}): CleanStep {
  const op = 'redact';
  checkKeys(op, options, ['kinds', 'keepPrivateIp', 'placeholders']);
  const asked = options.kinds ?? KINDS;
  for (const kind of asked) checkOneOf(op, 'kinds', kind, KINDS);
  const keepPrivateIp = checkBoolean(op, 'keepPrivateIp', options.keepPrivateIp ?? true);
  checkKeys(op, options.placeholders ?? {}, KINDS);
  const placeholders = { ...PLACEHOLDERS, ...options.placeholders };
  for (const [kind, placeholder] of Object.entries(placeholders)) {
    if (typeof placeholder === 'string') continue;
    throw new AttributeError({
      op,
      argument: `placeholders.${kind}`,
      expected: 'a string',
      actual: formatValue(placeholder),
    });
  }
  const all = finders(keepPrivateIp);
  const active = KINDS.filter((kind) => asked.includes(kind));
  return {
    name: op,
    kind: op,
    options: { kinds: active, keepPrivateIp, placeholders },
    process(document) {
      const counts: Record<string, number> = {};
      let { text } = document;
      for (const kind of active) {
        const { hint, pattern, accepts } = all[kind];
        if (!hint.test(text)) continue;
        text = text.replace(pattern, (found) => {
          const core = kind === 'iban' ? trimIban(found) : found;
          if (!accepts(core)) return found;
          counts[kind] = (counts[kind] ?? 0) + 1;
          return placeholders[kind] + found.slice(core.length);
        });
      }
      return replaceText(document, text, counts);
    },
  };
}
