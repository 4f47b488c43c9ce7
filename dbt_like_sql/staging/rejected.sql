select
    dt,
    'actions' as source,
    reason,
    json_object('user_id', user_id, 'pin_id', pin_id, 'action', action, 'ts', ts, 'file', file) as row
from {{ ref('checked_actions') }}
where reason is not null

union all

select
    dt,
    'impressions' as source,
    reason,
    json_object('user_id', user_id, 'pin_id', pin_id, 'ts', ts, 'file', file) as row
from {{ ref('checked_impressions') }}
where reason is not null

union all

select
    dt,
    'board_pins' as source,
    reason,
    json_object('board_id', board_id, 'user_id', user_id, 'pin_id', pin_id, 'ts', ts, 'file', file) as row
from {{ ref('checked_board_pins') }}
where reason is not null

union all

select
    dt,
    'pins' as source,
    coalesce(reason, 'the pin is known already, and its embedding is fixed') as reason,
    json_object(
        'pin_id', pin_id,
        'created_at', created_at,
        -- Text, because JSON has no NaN.
        'embedding', embedding::varchar,
        'title', title,
        'category', category,
        'image_url', image_url,
        'width', width,
        'height', height,
        'text_fraction', text_fraction::varchar,
        'file', file
    ) as row
from {{ ref('checked_pins') }}
where
    reason is not null
    or nth > 1
    or pin_id in (select pin_id from {{ ref('pins') }} where dt < '{{ var("first_dt") }}')
